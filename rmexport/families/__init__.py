"""Backbones, one file each, found by `model_type`; a file here is named nowhere else.

A family module has FAMILY, a `Family`, which is all that others see of it.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import onnx_ir as ir

from rmexport.checkpoint.derived_tensors import Derived
from rmexport.errors import UnsupportedModel
from rmexport.graph.decoder_writer import DecoderWriter
from rmruntime.modules import by_name, discover_values

ROTARY_BUFFERS = (r".*rotary_emb\.inv_freq$",)  # buffers that old releases saved; computed from the config


class FamilyConfig(Protocol):
    """What every family's Config holds, whatever else it needs."""

    @property
    def hidden_size(self) -> int: ...
    @property
    def num_hidden_layers(self) -> int: ...
    @property
    def key_size(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def max_position_embeddings(self) -> int: ...
    @property
    def rope_length(self) -> int | None: ...
    @property
    def rope_exact(self) -> bool: ...


def _none_derived(config: Any) -> Mapping[str, Derived]:
    return {}


def _own_config(raw: Mapping[str, Any]) -> dict[str, Any]:
    return dict(raw)


def _own_tensor(config: Any, name: str) -> Derived | None:
    return None


@dataclass(frozen=True, kw_only=True)
class Family:
    """What a family module states in its FAMILY.

    `model_types` are the values of config.json that it answers to, `embedding` and `lm_head` the names of those two
    weights, `ignored` patterns of checkpoint tensors that carry no weight. `tied_by_default` and `default_pad_id` are
    the values where config.json has no tie_word_embeddings or pad_token_id.

    `causal`: a token sees those before it alone; otherwise all of its sequence.

    - `read_config(raw)` returns its frozen config.
    - `backbone(d, config)` returns the final hidden states of the tokens that a head reads, fp32 [N, hidden].
    - `derived(config)` says how weights are made of tensors that the checkpoint holds in another form.
    - `reference_config(raw)` and `reference_tensor(config, name)` say how transformers computes the same: as which
      class, and with which tensors for its parameter `name`, None where the checkpoint has that parameter.
    """

    model_types: tuple[str, ...]
    embedding: str
    lm_head: str
    read_config: Callable[[Mapping[str, Any]], FamilyConfig]
    backbone: Callable[[DecoderWriter, Any], ir.Value]
    ignored: tuple[str, ...] = ()
    tied_by_default: bool = False
    default_pad_id: int | None = None
    causal: bool = True
    derived: Callable[[Any], Mapping[str, Derived]] = _none_derived
    reference_config: Callable[[Mapping[str, Any]], dict[str, Any]] = _own_config
    reference_tensor: Callable[[Any, str], Derived | None] = _own_tensor


@cache
def families() -> dict[str, Family]:
    """Every family by each model_type that it answers to."""
    found = discover_values(__name__, "FAMILY", Family).items()
    return by_name(__name__, ((name, module, family) for module, family in found for name in family.model_types))


def family_of(raw: Mapping[str, Any]) -> Family:
    """The family of a parsed config.json.

    Raises UnsupportedModel naming the nearest known model_type.
    """
    model_type, known = str(raw.get("model_type")), families()
    if model_type in known:
        return known[model_type]
    near = difflib.get_close_matches(model_type, known, n=1, cutoff=0.3)
    hint = f"; the nearest known one is {near[0]!r}" if near else ""
    raise UnsupportedModel(
        f"config.json has model_type {model_type!r}, which no family answers to{hint} "
        f"(known: {', '.join(sorted(known))}); CONTRIBUTING.md says how to add a family"
    )
