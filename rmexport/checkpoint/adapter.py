"""A LoRA adapter and its base as one list of weights, which are merged while they are read."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from rmexport.checkpoint.adapter_config import ADAPTER_CONFIG, LoraConfig
from rmexport.checkpoint.adapter_tensors import (
    EMBEDDING_A,
    EMBEDDING_B,
    MAGNITUDE,
    A,
    AdapterTensors,
    B,
    base_name,
    sort_tensors,
)
from rmexport.checkpoint.config_fields import architectures
from rmexport.checkpoint.finite import FLOATS
from rmexport.checkpoint.lora_reader import LoraReader, LowRankUpdate
from rmexport.checkpoint.tensors import Route, RoutedReader, TensorInfo, TensorReader
from rmexport.checkpoint.weight_files import WeightFiles
from rmexport.errors import CheckpointError
from rmruntime.errors import listing

BASE_PREFIX = "base/"  # of the names of a base's files among an adapter's
_CLASSIFIERS = {"SEQ_CLS": "ForSequenceClassification", "TOKEN_CLS": "ForTokenClassification"}  # by peft's task_type
_HEADS = ("score.", "classifier.")  # modules that peft saves with such an adapter
_LM_HEADS = ("lm_head.weight", "lm_head.bias", "output.weight", "embed_out.weight")
# Of transformers' models only these keep linear weights as [in, out] (pytorch_utils.Conv1D).
_CONV1D = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")


def merge_adapter(
    config: LoraConfig, adapter: WeightFiles, base: WeightFiles, model_type: object, *, base_files: str = BASE_PREFIX
) -> WeightFiles:
    """The base's weights with the adapter's changes; takes memory for the factors of one weight per thread.

    Merged tensors keep the dtype of the base; those that the adapter replaces as a whole have the adapter's. No tensor
    has an offset, so that all of them are streamed. `base_files` is the prefix of the names of the base's files. Raises
    CheckpointError, which names all tensors that do not fit the base.
    """
    own = sort_tensors(adapter.tensors, base.tensors)
    held = {name: replace(info, file=base_files + info.file, offset=None) for name, info in base.tensors.items()}
    weights = {name: Route(base.reader, info) for name, info in base.tensors.items()}
    weights |= {name: Route(adapter.reader, info) for name, info in own.whole.items()}
    held |= {name: replace(info, name=name, offset=None) for name, info in own.whole.items()}
    _check_saved(config, own)
    faults = _wrong_whole(own.whole, base.tensors)
    updates: dict[str, LowRankUpdate] = {}
    for module, parts in own.updates.items():
        name = base_name(f"{module}.weight", weights)
        try:
            updates[name] = _update(config, module, parts, weights.get(name), adapter.reader, model_type in _CONV1D)
        except CheckpointError as error:
            faults.append(str(error))
    if faults:
        raise CheckpointError(f"the adapter does not fit its base: {'; '.join(faults[:20])}")
    merged = LoraReader(updates)
    routes = weights | {name: merged.route(name) for name in updates}
    dropped = _unused_lm_head(config, own, base.tensors)
    tensors = {name: info for name, info in held.items() if name not in dropped}
    notes = adapter.notes + _notes(config, own, dropped) + _tied_notes(own, weights)
    return WeightFiles(tensors, RoutedReader(routes), adapter.files, notes=notes)


def _check_saved(config: LoraConfig, adapter: AdapterTensors) -> None:
    """Raises CheckpointError where modules_to_save is set and none of its modules is in the adapter's files.

    One of them is enough, because peft lists every name that a head may have.
    """
    if config.modules_to_save and not adapter.whole:
        raise CheckpointError(
            f"modules_to_save names {' or '.join(config.modules_to_save)} as trained, and the adapter's files lack it; "
            "the base's own head would give other scores: save the adapter again"
        )


def _wrong_whole(whole: Mapping[str, TensorInfo], base: Mapping[str, TensorInfo]) -> list[str]:
    """Faults of tensors that replace the base's: they may differ only in their number of rows (labels, vocabulary)."""
    return [
        f"{name} is {list(info.shape)} in the adapter and {list(base[name].shape)} in the base"
        for name, info in whole.items()
        if name in base and (len(info.shape) != len(base[name].shape) or info.shape[1:] != base[name].shape[1:])
    ]


def _update(
    config: LoraConfig,
    module: str,
    parts: Mapping[str, TensorInfo],
    weight: Route | None,
    reader: TensorReader,
    conv1d: bool,
) -> LowRankUpdate:
    a, b = parts.get(A) or parts.get(EMBEDDING_A), parts.get(B) or parts.get(EMBEDDING_B)
    if a is None or b is None or parts.keys() - {MAGNITUDE} not in ({A, B}, {EMBEDDING_A, EMBEDDING_B}):
        raise CheckpointError(f"{module} has {', '.join(sorted(parts))}, expected one pair of A and B")
    if weight is None:
        raise CheckpointError(f"{module} is adapted and the base has no {module}.weight")
    if foreign := [info for info in (a, b, weight.info, *parts.values()) if info.dtype not in FLOATS]:
        raise CheckpointError(
            f"{foreign[0].name} is {foreign[0].dtype}, expected {', '.join(FLOATS)} (name the unquantized base in "
            f"{ADAPTER_CONFIG})"
        )
    rank = config.rank(module)
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1] or a.shape[0] != rank:
        raise CheckpointError(f"{module}: A is {list(a.shape)} and B {list(b.shape)}, expected rank {rank:g}")
    product = (b.shape[0], a.shape[1])
    transposed = EMBEDDING_A in parts or (conv1d and weight.info.shape == product[::-1])
    if weight.info.shape != (product[::-1] if transposed else product):
        raise CheckpointError(f"{module}.weight is {list(weight.info.shape)} and its update {list(product)}")
    return LowRankUpdate(
        weight=weight,
        a=Route(reader, a),
        b=Route(reader, b),
        scale=config.scale(module),
        transposed=transposed,
        magnitude=_magnitude(config, module, parts.get(MAGNITUDE), b.shape[0], transposed, reader),
    )


def _magnitude(
    config: LoraConfig, module: str, info: TensorInfo | None, rows: int, transposed: bool, reader: TensorReader
) -> Route | None:
    if info is None and not config.use_dora:
        return None
    if info is None or not config.use_dora:
        has = "has no" if info is None else "has a"
        raise CheckpointError(f"{module} {has} {MAGNITUDE} and use_dora is {str(config.use_dora).lower()}")
    if transposed:  # its norms are taken over all rows, which would have to be read twice
        raise CheckpointError(f"{module}: DoRA of an embedding or Conv1D is not merged here; merge it with peft")
    if info.size != rows:
        raise CheckpointError(f"{module}: {MAGNITUDE} is {list(info.shape)}, expected {rows} elements")
    return Route(reader, info)


def _unused_lm_head(config: LoraConfig, adapter: AdapterTensors, base: Mapping[str, TensorInfo]) -> tuple[str, ...]:
    """The language model's head under a classifier, which transformers leaves out when it loads the base as one.

    Raises CheckpointError where that leaves no head at all: the trained one was not saved.
    """
    added = [name for name in adapter.whole if name not in base]
    if config.task_type not in _CLASSIFIERS and not any(name.startswith(_HEADS) for name in added):
        return ()
    unused = tuple(name for name in _LM_HEADS if name in base)
    if unused and not added:
        raise CheckpointError(
            f"the adapter was trained for {config.task_type} on a language model and has no head: it was not saved, "
            "because modules_to_save lacked it (score or classifier); found only low-rank updates of "
            f"{listing(sorted(adapter.updates)[:3])}. Save the adapter again with its head"
        )
    return unused


def _notes(config: LoraConfig, adapter: AdapterTensors, dropped: tuple[str, ...]) -> tuple[str, ...]:
    whole = f", {listing(sorted(adapter.whole))} taken whole" if adapter.whole else ""
    stated = config.base_model_name_or_path
    base = stated.rstrip("/").rsplit("/", 1)[-1] if stated.startswith(("/", ".", "~")) else stated  # no private paths
    on = f" on {base}" if base else ""
    merged = f"LoRA adapter{on}: {len(adapter.updates)} weights merged{whole}"
    left_out = (f"{', '.join(dropped)} of the base is left out: the adapter's head replaces it",) if dropped else ()
    return (merged, *left_out)


def _tied_notes(adapter: AdapterTensors, held: Collection[str]) -> tuple[str, ...]:
    """The note for an adapter that changes tied embeddings; `held` are the names of all weights, base and adapter."""
    embeddings = [module for module, parts in adapter.updates.items() if EMBEDDING_A in parts]
    if not embeddings or any(name in held for name in _LM_HEADS):
        return ()
    return (
        f"the adapter changes {', '.join(embeddings)}: where the language model's head is tied to it and gives the "
        "score, it changes too, as when merged by peft; trained beside peft's adapter it did not",
    )


def adapted_config(
    config: LoraConfig, base: Mapping[str, Any], own: Mapping[str, Any] | None, merged: WeightFiles
) -> dict[str, Any]:
    """The config.json of the merged model: the base's, overridden by the adapter's own where it has one.

    Where it has none, the vocabulary is that of an embedding in the adapter, and the architecture is the classifier
    that the adapter was trained in, as transformers would have written them.
    """
    if own is not None:
        return {**base, **own}
    fields = dict(base)
    for name, info in merged.tensors.items():
        if "embed" in name and name.endswith(".weight") and not info.file.startswith(BASE_PREFIX):
            fields["vocab_size"] = info.shape[0]
    suffix = _CLASSIFIERS.get(config.task_type or "")
    if suffix:
        fields["architectures"] = [name.replace("ForCausalLM", suffix) for name in architectures(base)]
    return fields
