"""What the manifest and `inspect` say of a checkpoint, whichever way its graphs are made."""

from collections.abc import Mapping
from dataclasses import dataclass

from rmexport.checkpoint import Checkpoint, TokenizerFiles
from rmexport.encoders import EncoderSpec, is_encoder, read_encoder_spec
from rmexport.options import ExportOptions
from rmexport.spec.model_spec import ModelSpec, read_spec
from rmruntime.bundle.manifest import Backbone, Format, Output, PositionRule, Quantization


@dataclass(frozen=True, kw_only=True)
class Description:
    """A checkpoint understood. `because` says why it is this family, head and format."""

    family: str
    head: str
    recipe: str | None
    dtype: str
    backbone: Backbone
    format: Format
    positions: Mapping[str, PositionRule]
    outputs: tuple[Output, ...]
    score: str | None
    tokenizer: TokenizerFiles
    because: Mapping[str, str]
    notes: tuple[str, ...]
    quantization: Quantization | None = None


def read_description(checkpoint: Checkpoint, options: ExportOptions) -> Description:
    """Understand a checkpoint of either kind; raises what `read_spec` and `read_encoder_spec` raise."""
    if is_encoder(checkpoint.config):
        return describe_encoder(read_encoder_spec(checkpoint, options))
    return describe(read_spec(checkpoint, options))


def describe(spec: ModelSpec) -> Description:
    """A backbone written in our vocabulary, and its head."""
    template = "its chat template" if spec.tokenizer.template else "no chat template: conversations come rendered"
    return Description(
        family=spec.family.MODEL_TYPES[0],
        head=spec.head_name,
        recipe=spec.recipe.name if spec.recipe else None,
        dtype=spec.dtype,
        backbone=spec.backbone,
        format=spec.format,
        positions=spec.head.positions,
        outputs=spec.head.outputs,
        score=spec.head.score,
        tokenizer=spec.tokenizer,
        because={
            "family": _model_type(spec.backbone),
            "head": spec.reason,
            "format": f"the recipe {spec.recipe.name}" if spec.recipe else template,
        },
        notes=spec.notes,
        quantization=spec.quantization,
    )


def describe_encoder(spec: EncoderSpec) -> Description:
    """An encoder with a classifier."""
    return Description(
        family=spec.backbone.model_type,
        head=spec.head,
        recipe=None,
        dtype=spec.dtype,
        backbone=spec.backbone,
        format=spec.format,
        positions=spec.positions,
        outputs=spec.outputs,
        score=spec.score,
        tokenizer=spec.tokenizer,
        because={
            "family": _model_type(spec.backbone),
            "head": f"architecture {spec.backbone.architecture}, whose own forward is traced",
            "format": "how its tokenizer joins a pair of texts",
        },
        notes=spec.notes,
    )


def _model_type(backbone: Backbone) -> str:
    return f"config.json has model_type {backbone.model_type!r}"
