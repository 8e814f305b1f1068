"""Backbones, one file each, found by `model_type`; a file here is named nowhere else.

A family module has MODEL_TYPES, IGNORED (patterns of checkpoint tensors that carry no weight), `read_config(raw)`
returning its frozen Config, and `backbone(d, config)` returning the final hidden states of the tokens
that a head reads, fp32 [N, hidden]. EMBEDDING and LM_HEAD name those two weights.

Optional: `derived(config)`, how weights are made of tensors that the checkpoint holds in another form;
`reference_config(raw)` and `reference_tensor(config, name)`, how transformers computes the same, as which class and
with which tensors for its parameter `name`; TIED_BY_DEFAULT and DEFAULT_PAD_ID, the values where config.json has no
tie_word_embeddings or pad_token_id.
"""

import difflib
from collections.abc import Mapping
from functools import cache
from typing import Any, Protocol

import onnx_ir as ir

from rmexport.checkpoint.derived_tensors import Derived
from rmexport.errors import UnsupportedModel
from rmexport.graph.decoder_writer import DecoderWriter
from rmruntime.modules import discover, members


class FamilyConfig(Protocol):
    """What every family's Config holds, whatever else it needs."""

    @property
    def hidden_size(self) -> int: ...
    @property
    def num_hidden_layers(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def max_position_embeddings(self) -> int: ...
    @property
    def rope_length(self) -> int | None: ...
    @property
    def rope_exact(self) -> bool: ...


class Family(Protocol):
    """A family module."""

    MODEL_TYPES: tuple[str, ...]
    EMBEDDING: str
    LM_HEAD: str
    IGNORED: tuple[str, ...]

    def read_config(self, raw: Mapping[str, Any]) -> FamilyConfig: ...
    def backbone(self, d: DecoderWriter, config: Any) -> ir.Value: ...


@cache
def families() -> dict[str, Family]:
    """Every family by each model_type that it answers to."""
    found: dict[str, Family] = {}
    for module in discover(__name__, members(Family)):
        found |= dict.fromkeys(module.MODEL_TYPES, module)
    return found


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


def derived_weights(family: Family, config: FamilyConfig) -> Mapping[str, Derived]:
    """What the family's weights are made of where the checkpoint holds them in another form."""
    describe = getattr(family, "derived", None)
    return {} if describe is None else describe(config)
