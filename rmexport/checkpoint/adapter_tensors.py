"""Sorts an adapter's tensors by what they do to the base: low-rank updates, and tensors that replace or join its own.

Names are peft's (utils/save_and_load.py) without base_model.model., with or without the name of the adapter in them:
MODULE.lora_A[.default].weight, .lora_embedding_A[.default], .lora_magnitude_vector[...], and for whole
tensors MODULE[.modules_to_save[.default] | .base_layer].weight or .bias.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from rmexport.checkpoint.tensors import TensorInfo
from rmexport.errors import CheckpointError
from rmruntime.errors import listing

A, B, EMBEDDING_A, EMBEDDING_B = "lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B"
MAGNITUDE = "lora_magnitude_vector"
_UPDATE = re.compile(
    rf"(?P<module>.+)\.(?P<part>{A}|{B}|{EMBEDDING_A}|{EMBEDDING_B}|{MAGNITUDE})(\.(?!bias$)[^.]+)?(\.weight)?"
)
_WHOLE = re.compile(r"(?P<module>.+?)\.(base_layer|modules_to_save(\.default)?)\.(?P<leaf>.+)")
# Tensors of other methods, and of peft's own bookkeeping, in the same files.
_FOREIGN = re.compile(r"(.+\.)?(lora_|token_adapter|original_module)")


@dataclass(frozen=True)
class AdapterTensors:
    """An adapter's tensors: `updates`, low-rank updates by module and part; `whole` ones, by their name in the base."""

    updates: Mapping[str, Mapping[str, TensorInfo]]
    whole: Mapping[str, TensorInfo]


def sort_tensors(tensors: Mapping[str, TensorInfo], base: Collection[str]) -> AdapterTensors:
    """Sort an adapter's tensors by their names; `base` are the names of its base's tensors.

    Raises CheckpointError, which names every tensor of an unknown kind, and those that are there twice.

    >>> info = TensorInfo("score.modules_to_save.weight", "fp32", (1, 64), "adapter_model.safetensors", 0, nbytes=256)
    >>> list(sort_tensors({info.name: info}, base=["score.weight"]).whole)
    ['score.weight']
    """
    updates: dict[str, dict[str, TensorInfo]] = {}
    whole: dict[str, TensorInfo] = {}
    strange = []
    for name, info in tensors.items():
        if update := _UPDATE.fullmatch(name):
            target, slot = updates.setdefault(update["module"], {}), update["part"]
        else:
            saved = _WHOLE.fullmatch(name)
            target, slot = whole, base_name(f"{saved['module']}.{saved['leaf']}" if saved else name, base)
        if slot in target or (not update and _FOREIGN.match(name)):
            strange.append(name)
        target[slot] = info
    if strange:
        raise CheckpointError(
            f"adapter tensors that are there twice or that no LoRA merge knows: {listing(sorted(strange))}; merge the "
            "adapter with peft (merge_and_unload) and export the merged model"
        )
    return AdapterTensors(updates, whole)


def base_name(name: str, base: Collection[str]) -> str:
    """The name that the base has for `name`, with or without "model.": checkpoints of a bare backbone lack that.

    >>> base_name("layers.0.mlp.up_proj.weight", {"model.layers.0.mlp.up_proj.weight"})
    'model.layers.0.mlp.up_proj.weight'
    """
    spellings = (name, f"model.{name}", name.removeprefix("model."))
    return next((spelling for spelling in spellings if spelling in base), name)
