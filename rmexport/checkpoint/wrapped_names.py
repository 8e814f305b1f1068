"""Removes from tensor names the wrappers of training: torch.compile, FSDP, DDP, DeepSpeed, PEFT, TRL.

A wrapper is a component of a name, at its beginning (`base_model.model.`, `pretrained_model.`) or anywhere (`module.`,
`_orig_mod.`, `_fsdp_wrapped_module.`), and wrappers may be nested. `model.` counts as one only where it precedes
another `model.`, or the head: backbones have a `model.` of their own.
"""

from collections import Counter
from collections.abc import Collection, Mapping

from rmexport.checkpoint.tensors import TensorInfo
from rmexport.checkpoint.weight_files import WeightFiles, renamed_weights
from rmexport.errors import CheckpointError
from rmruntime.errors import listing

PEFT = "base_model.model."  # of every name in an adapter
_LEADING = (PEFT, "pretrained_model.")
_ANYWHERE = (
    "module",  # DDP, DeepSpeed
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    "_fpw_module",  # FSDP before torch 2.0
    "_forward_module",  # Lightning
)
_MODEL = "model."


def unwrapped(weights: WeightFiles, *, expected: Collection[str] = ()) -> WeightFiles:
    """`weights` with names without wrappers, and a note of the wrappers, except for those that are `expected`.

    Raises CheckpointError where two tensors would have one name.
    """
    left_out: Counter[str] = Counter()
    names = {name: _bare(name, left_out) for name in weights.tensors}
    while prefix := _around_all(names, weights.tensors):
        names = {old: _bare(new.removeprefix(prefix), left_out) for old, new in names.items()}
        left_out[prefix] += len(names)
    if not left_out:
        return weights
    _check_collisions(names)
    note = f"tensor names are read without the wrappers that they were saved in: {', '.join(sorted(left_out))}"
    notes = () if set(left_out) <= set(expected) else (note,)
    return renamed_weights(weights, {new: old for old, new in names.items()}, notes)


def _bare(name: str, left_out: Counter[str]) -> str:
    parts = name.split(".")
    for wrapper in set(parts).intersection(_ANYWHERE):
        left_out[f"{wrapper}."] += 1
        parts = [part for part in parts if part != wrapper]
    name = ".".join(parts)
    while leading := next((wrapper for wrapper in _LEADING if name.startswith(wrapper)), None):
        left_out[leading] += 1
        name = name.removeprefix(leading)
    return name


def _around_all(names: Mapping[str, str], tensors: Mapping[str, TensorInfo]) -> str | None:
    """ "model." where it is a wrapper: before another `model.`, or before the head; else None."""
    found = set(names.values())
    inside = {name for name in found if name.startswith(_MODEL)}
    nested = any(name.removeprefix(_MODEL).startswith((_MODEL, *_LEADING)) for name in inside)
    layers = any(n.startswith("model.layers.") if n in inside else ".layers." in f".{n}" for n in found)
    heads = (old for old, new in names.items() if ".layers." not in f".{new}" and _has_one_row(tensors[old]))
    return _MODEL if (nested and not layers) or (inside == found and any(heads)) else None


def _has_one_row(info: TensorInfo) -> bool:
    return len(info.shape) == 2 and info.shape[0] == 1


def _check_collisions(names: Mapping[str, str]) -> None:
    held: dict[str, list[str]] = {}
    for old, new in names.items():
        held.setdefault(new, []).append(old)
    if twice := [" and ".join(sorted(olds)) for olds in held.values() if len(olds) > 1]:
        raise CheckpointError(
            f"tensors that have one name without their wrappers: {listing(twice)}; which of them counts is not known: "
            "save the model's own state dict again"
        )
