"""Reads the fields of config.json that decoders have in common, with transformers' names and rules for absent ones."""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from rmexport.checkpoint.config_fields import (
    EPSILON,
    FEATURES,
    HEAD_SIZE,
    HEADS,
    LAYERS,
    LENGTH,
    VOCABULARY,
    Range,
    flag,
    integer,
    number,
    optional_integer,
    shown,
)
from rmexport.checkpoint.rope_config import RopeConfig, read_rope
from rmexport.errors import CheckpointError, UnsupportedModel
from rmexport.graph.decoder_writer import Activation

_ACTIVATIONS: Mapping[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}


class DecoderFields(TypedDict):
    """The part of DecoderConfig that `decoder_fields` fills in."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    norm_eps: float
    ropes: tuple[RopeConfig, ...]
    windows: tuple[int | None, ...]
    attention_scale: float


def decoder_fields(raw: Mapping[str, Any], *, head_dim: int | None = None, partial: bool = False) -> DecoderFields:
    """Sizes, one rope for all layers, no windows, scores scaled by head_dim ** -0.5.

    `head_dim` is the family's default where it is not hidden_size / heads; `partial`: it may rotate a part of each
    head. Raises CheckpointError or UnsupportedModel for fields that are missing or out of range.

    >>> sizes = {"hidden_size": 64, "intermediate_size": 96, "vocab_size": 100, "max_position_embeddings": 512}
    >>> decoder_fields({**sizes, "num_hidden_layers": 2, "num_attention_heads": 4})["head_dim"]
    16
    """
    if raw.get("is_causal") is False:  # transformers 5 then masks nothing
        raise UnsupportedModel("config.json: is_causal is false; decoders are supported with causal attention")
    heads, hidden = integer(raw, "num_attention_heads", HEADS), integer(raw, "hidden_size", FEATURES)
    layers = integer(raw, "num_hidden_layers", LAYERS)
    key_heads = optional_integer(raw, "num_key_value_heads", HEADS) or heads
    if heads % key_heads:
        raise CheckpointError(
            f"config.json: num_attention_heads is {heads}, expected a multiple of num_key_value_heads, {key_heads}"
        )
    size = optional_integer(raw, "head_dim", HEAD_SIZE) or head_dim or hidden // heads
    rope = read_rope(raw, partial=partial)
    _check_heads(heads, size, rope)
    return DecoderFields(
        hidden_size=hidden,
        intermediate_size=integer(raw, "intermediate_size", FEATURES),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        head_dim=size,
        vocab_size=integer(raw, "vocab_size", VOCABULARY),
        max_position_embeddings=_longest(integer(raw, "max_position_embeddings", LENGTH), rope),
        norm_eps=number(raw, "rms_norm_eps", EPSILON, default=1e-6),
        ropes=(rope,) * layers,
        windows=(None,) * layers,
        attention_scale=size**-0.5,
    )


def _check_heads(heads: int, size: int, rope: RopeConfig) -> None:
    """Raise CheckpointError for heads that cannot be rotated, or are more than any model has."""
    rotated = int(size * rope.partial)
    least = 4 if rope.kind == "dynamic" else 2  # its formula divides by what is rotated less 2
    if size % 2 or rotated % 2 or rotated < least or not FEATURES.holds(heads * size):
        raise CheckpointError(
            f"config.json: {heads} heads of {size} features (num_attention_heads, head_dim or hidden_size), {rotated} "
            f"of them rotated; expected even numbers from {least} on, and at most {FEATURES.most} features in all"
        )


def _longest(positions: int, rope: RopeConfig) -> int:
    """The limit in tokens: with these kinds, max_position_embeddings may be where scaling begins (Qwen's YaRN)."""
    original = rope.original_max_position_embeddings
    if rope.kind not in ("dynamic", "yarn") or rope.factor is None or original is None:
        return positions
    return max(positions, min(int(original * rope.factor), int(LENGTH.most)))


def activation(raw: Mapping[str, Any], name: str, *, known: Sequence[str], default: str = "silu") -> Activation:
    """The activation that field `name` names; raises UnsupportedModel for one that is not among `known`.

    >>> activation({"hidden_act": "gelu_new"}, "hidden_act", known=("silu", "gelu_new"))
    'gelu_tanh'
    """
    value = raw.get(name) or default
    if not isinstance(value, str) or value not in known:
        raise UnsupportedModel(
            f"{name} is {shown(value)}; a {raw.get('model_type')} backbone is supported with {', '.join(known)} only"
        )
    return _ACTIVATIONS[value]


def layer_windows(
    raw: Mapping[str, Any], layers: int, *, window: int | None, slides: Sequence[bool]
) -> tuple[int | None, ...]:
    """The sliding window of every layer: as config.json's `layer_types` say, else where `slides` is true.

    Raises CheckpointError for layer types that are too few or unknown, or slide where there is no window.

    >>> layer_windows({}, 2, window=4096, slides=[True, False])
    (4096, None)
    """
    types = raw.get("layer_types")
    if types is None:
        return tuple(window if sliding else None for sliding in slides)
    known = ("full_attention", "sliding_attention")
    if not isinstance(types, list) or len(types) != layers or any(kind not in known for kind in types):
        raise CheckpointError(f"config.json: layer_types is {types!s:.80}, expected {layers} of {' or '.join(known)}")
    if window is None and "sliding_attention" in types:
        raise CheckpointError(
            "config.json: layer_types has sliding_attention, but sliding_window is null or unused; restore the original"
        )
    return tuple(window if kind == "sliding_attention" else None for kind in types)


def upper_layer_windows(raw: Mapping[str, Any]) -> tuple[int | None, ...]:
    """`layer_windows` of families whose layers from `max_window_layers` on may slide (Qwen2 and later).

    Nearly every config.json states a window; it counts only where `use_sliding_window` is true.

    >>> config = {"num_hidden_layers": 3, "use_sliding_window": True, "max_window_layers": 2}
    >>> upper_layer_windows(config)
    (None, None, 4096)
    """
    used, layers = flag(raw, "use_sliding_window"), integer(raw, "num_hidden_layers", LAYERS)
    window = optional_integer({"sliding_window": 4096, **raw}, "sliding_window", LENGTH) if used else None
    first = optional_integer({"max_window_layers": 28, **raw}, "max_window_layers", Range(0, LENGTH.most)) or 0
    return layer_windows(raw, layers, window=window, slides=[i >= first for i in range(layers)])
