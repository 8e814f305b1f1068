"""Merges the state dict of a PEFT model that was saved as a whole checkpoint without being merged.

It has the model's own tensors, under `base_layer` where a layer is wrapped, and those of an adapter, with peft's names:
`MODULE.lora_A.default.weight`. A module that was trained as a whole is there twice, as it was before
(`original_module`) and as trained (`modules_to_save.default`).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rmexport.checkpoint.adapter import merge_adapter
from rmexport.checkpoint.adapter_config import ADAPTER_CONFIG, read_adapter_config
from rmexport.checkpoint.quantized_tensors import refuse_quantized
from rmexport.checkpoint.weight_files import WeightFiles, renamed_weights
from rmexport.errors import CheckpointError
from rmruntime.errors import listing

_LORA = re.compile(r".+\.lora_\w+(\.(?!(weight|bias)$)(?P<adapter>[^.]+))?(\.weight|\.bias)?")
_TRAINED = re.compile(r"(?P<module>.+)\.modules_to_save\.(?P<adapter>[^.]+)\.(?P<leaf>.+)")
_ORIGINAL, _WRAPPED = ".original_module.", ".base_layer."


@dataclass
class _Parts:
    """The tensors by part, each as names in the merged model mapped to names in the files.

    The parts are the model's own tensors, and modules that were trained as a whole; `updates` are the names of low-rank
    updates.
    """

    base: dict[str, str] = field(default_factory=dict)
    trained: dict[str, str] = field(default_factory=dict)
    updates: list[str] = field(default_factory=list)


def merge_unmerged(folder: Path, weights: WeightFiles, config: Mapping[str, Any]) -> WeightFiles:
    """The weights of the merged model, where `weights` are of a model that was not merged; else `weights` unchanged.

    Raises CheckpointError where they cannot be merged: several adapters, or updates without adapter_config.json, which
    has their scale.
    """
    if not any(_LORA.fullmatch(n) or _TRAINED.fullmatch(n) or _WRAPPED in n or _ORIGINAL in n for n in weights.tensors):
        return weights
    parts = _sorted_parts(folder, weights)
    if not parts.updates:
        note = f"{listing(sorted(parts.trained))} taken as trained (peft's modules_to_save)"
        return renamed_weights(weights, parts.base | parts.trained, (note,) if parts.trained else ())
    if not (folder / ADAPTER_CONFIG).is_file():
        raise CheckpointError(
            f"{folder} is the state dict of a LoRA model that was never merged ({listing(parts.updates[:3])}, ...); "
            f"how strongly its updates count (lora_alpha) is not in it: put the training's {ADAPTER_CONFIG} into the "
            "folder, or merge it with peft (merge_and_unload) and export the merged model"
        )
    refuse_quantized(config, weights.tensors)
    base = renamed_weights(weights, parts.base)
    own = renamed_weights(weights, {name: name for name in parts.updates} | parts.trained)
    lora = read_adapter_config(folder, needs_base=False)
    merged = merge_adapter(lora, own, base, config.get("model_type"), base_files="")
    notes = ("the checkpoint is a PEFT model that was not merged", *merged.notes)
    return replace(merged, files=weights.files, index=weights.index, settings=(ADAPTER_CONFIG,), notes=notes)


def _sorted_parts(folder: Path, weights: WeightFiles) -> _Parts:
    parts = _Parts()
    _check_one_adapter(folder, weights.tensors)
    for name in weights.tensors:
        if trained := _TRAINED.fullmatch(name):
            _add(parts.trained, f"{trained['module']}.{trained['leaf']}", name)
        elif _LORA.fullmatch(name):
            parts.updates.append(name)
        else:
            _add(parts.base, name.replace(_ORIGINAL, ".").replace(_WRAPPED, "."), name)
    return parts


def _check_one_adapter(folder: Path, names: Iterable[str]) -> None:
    matches = (found for name in names for found in (_TRAINED.fullmatch(name) or _LORA.fullmatch(name),) if found)
    if len(adapters := {found["adapter"] for found in matches} - {None}) > 1:
        raise CheckpointError(
            f"{folder} holds the LoRA adapters {', '.join(sorted(adapters))}, and which of them was active is not "
            "known: merge it with peft (merge_and_unload) and export the merged model"
        )


def _add(names: dict[str, str], name: str, source: str) -> None:
    if name in names:
        raise CheckpointError(f"{names[name]} and {source} are both {name} of the merged model; merge it with peft")
    names[name] = source
