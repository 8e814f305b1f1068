"""Reads the adapter_config.json of a LoRA adapter, as peft writes it (peft, tuners/lora/config.py)."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmexport.checkpoint.config_fields import (
    FACTOR,
    RANK,
    Range,
    flag,
    integer,
    number,
    optional_text,
    read_json_object,
    shown,
)
from rmexport.errors import CheckpointError

ADAPTER_CONFIG = "adapter_config.json"
# Settings under which the merged weights are not W + scale * B A: other parameters, other layers, other inputs.
_UNSUPPORTED = (
    "target_parameters",
    "trainable_token_indices",
    "layer_replication",
    "lora_bias",
    "megatron_config",
    "alora_invocation_tokens",
    "arrow_config",
)
_KNOWN_USES = ("use_rslora", "use_dora")
# Initialisations that leave the base's weights alone; the others (PiSSA, OLoRA, CorDA, LoftQ) subtract from them, so
# that the adapter fits no published base.
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """The settings that merging needs; fields have peft's names."""

    base_model_name_or_path: str
    revision: str | None
    task_type: str | None
    r: int
    lora_alpha: float
    use_rslora: bool
    use_dora: bool
    rank_pattern: Mapping[str, float]
    alpha_pattern: Mapping[str, float]
    modules_to_save: tuple[str, ...] = ()

    def rank(self, module: str) -> float:
        """The rank of a module's update: the first regular expression that its name ends in, else `r`."""
        return _matching(self.rank_pattern, module, self.r)

    def scale(self, module: str) -> float:
        """lora_alpha / r, or lora_alpha / sqrt(r) with rsLoRA (peft, LoraLayer.update_layer)."""
        rank = self.rank(module)
        return _matching(self.alpha_pattern, module, self.lora_alpha) / (math.sqrt(rank) if self.use_rslora else rank)


def read_adapter_config(folder: Path, *, needs_base: bool = True) -> LoraConfig:
    """Parse the adapter_config.json in `folder`; `needs_base`: it must name the base.

    Raises CheckpointError for other adapters than LoRA, for settings that cannot be merged, and for missing fields.

    >>> fields = '{"peft_type": "LORA", "r": 16, "lora_alpha": 32, "base_model_name_or_path": "org/base"}'
    >>> _ = Path("adapter_config.json").write_text(fields)
    >>> read_adapter_config(Path()).scale("q_proj")
    2.0
    """
    path = folder / ADAPTER_CONFIG
    raw = read_json_object(path)
    try:
        _check_mergeable(raw)
        return LoraConfig(
            base_model_name_or_path=_base(raw, needed=needs_base),
            revision=optional_text(raw, "revision"),
            task_type=optional_text(raw, "task_type"),
            r=integer(raw, "r", RANK),
            lora_alpha=number(raw, "lora_alpha", FACTOR, default=8),  # peft's default
            use_rslora=flag(raw, "use_rslora"),
            use_dora=flag(raw, "use_dora"),
            rank_pattern=_patterns(raw, "rank_pattern", RANK),
            alpha_pattern=_patterns(raw, "alpha_pattern", FACTOR),
            modules_to_save=_modules(raw),
        )
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {str(error).removeprefix('config.json').lstrip(': ')}") from error


def _check_mergeable(raw: Mapping[str, Any]) -> None:
    advice = "merge it with peft (merge_and_unload) and export the merged model"
    kind = raw.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(f"peft_type is {kind!r}, only LORA adapters are merged; {advice}")
    uses = [name for name, value in raw.items() if name.startswith("use_") and value and name not in _KNOWN_USES]
    if found := [name for name in _UNSUPPORTED if raw.get(name)] + uses:
        raise CheckpointError(f"{', '.join(found)} cannot be merged here; {advice}")
    start = raw.get("init_lora_weights")
    if not isinstance(start, bool | str | None) or start not in _PLAIN_STARTS:
        raise CheckpointError(
            f"init_lora_weights is {start!r}, which changes the base's own weights before training; save the adapter "
            f"with peft's path_initial_model_for_weight_conversion, or {advice}"
        )


def _base(raw: Mapping[str, Any], *, needed: bool) -> str:
    value = optional_text(raw, "base_model_name_or_path")
    if value is None and needed:
        raise CheckpointError("base_model_name_or_path is missing; write the base model's folder or Hub id there")
    return value or ""


def _modules(raw: Mapping[str, Any]) -> tuple[str, ...]:
    value = raw.get("modules_to_save") or []
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise CheckpointError(
            f"modules_to_save is {shown(value)}, expected a list of module names; restore the original"
        )
    return tuple(value)


def _patterns(raw: Mapping[str, Any], name: str, within: Range) -> Mapping[str, float]:
    patterns = raw.get(name) or {}
    if not isinstance(patterns, dict):
        raise CheckpointError(
            f"{name} is {shown(patterns)}, expected an object of numbers by module name; restore the original"
        )
    for pattern, value in patterns.items():
        if not within.holds(value):
            raise CheckpointError(
                f"{name} gives {pattern!r} the value {shown(value)}, expected a positive number {within}; "
                "restore the original"
            )
        try:
            re.compile(pattern)
        except re.error as error:
            raise CheckpointError(
                f"{name}: {pattern!r} is not a regular expression ({error}); restore the original"
            ) from error
    return patterns


def _matching(patterns: Mapping[str, float], module: str, default: float) -> float:
    """peft's get_pattern_key: keys are tried in order, and match whole components at the end of a module's name."""
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), default)
