"""The numbers of an encoder's config.json, which transformers computes with and does not check."""

from collections.abc import Mapping
from typing import Any

from rmexport.checkpoint.config_fields import (
    EPSILON,
    FEATURES,
    HEADS,
    LAYERS,
    LENGTH,
    ROPE_BASE,
    Range,
    optional_integer,
    optional_number,
    section,
)

# Of all types together: a name means the same in each that has it.
_INTEGERS: Mapping[str, Range] = {
    "num_attention_heads": HEADS,
    "n_heads": HEADS,
    "intermediate_size": FEATURES,
    "hidden_dim": FEATURES,
    "embedding_size": FEATURES,
    "pooler_hidden_size": FEATURES,
    "position_buckets": Range(-1, LENGTH.most),
    "max_relative_positions": Range(-1, LENGTH.most),
    "local_attention": LENGTH,
    "global_attn_every_n_layers": LAYERS,
}
_NUMBERS: Mapping[str, Range] = {
    "layer_norm_eps": EPSILON,
    "norm_eps": EPSILON,
    "global_rope_theta": ROPE_BASE,
    "local_rope_theta": ROPE_BASE,
}


def check_encoder_numbers(config: Mapping[str, Any]) -> None:
    """Raise CheckpointError for a number beyond its range, or of another type.

    >>> check_encoder_numbers({"hidden_size": 384, "layer_norm_eps": 1e-12})
    """
    for name, within in _INTEGERS.items():
        optional_integer(config, name, within)
    for name, within in _NUMBERS.items():
        optional_number(config, name, within)
    ropes = section(config, "rope_parameters")
    for part in (ropes, *(value for value in ropes.values() if isinstance(value, dict))):
        optional_number(part, "rope_theta", ROPE_BASE)
