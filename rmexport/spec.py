"""Everything an export decides about a checkpoint before writing a byte: family, head, dtype, format, weights."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rmexport.binding import check_binding
from rmexport.chat_text import ChatText
from rmexport.checkpoint import Checkpoint, TokenizerFiles
from rmexport.dialects import dialects
from rmexport.errors import CheckpointError, OptionError
from rmexport.families import Family, FamilyConfig, family_of
from rmexport.format import read_format
from rmexport.graph.vocabulary import Dialect
from rmexport.graph.writer import GraphWriter, WeightLocation, WeightRequest
from rmexport.heads import Head, HeadFacts, HeadSpec, head_of
from rmexport.options import ExportOptions
from rmexport.recipe import Recipe, recipe_for
from rmexport.weights import StoredTensor
from rmruntime.manifest import Backbone, Format

FLOAT_DTYPES = ("bf16", "fp16", "fp32")


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A checkpoint understood. `requests` are the weights that the graphs read, by name."""

    family: Family
    config: FamilyConfig
    head: Head
    head_spec: HeadSpec
    recipe: Recipe | None
    dtype: str
    format: Format
    backbone: Backbone
    tokenizer: TokenizerFiles
    requests: Mapping[str, WeightRequest]
    stored: tuple[StoredTensor, ...]
    notes: tuple[str, ...]


def read_spec(checkpoint: Checkpoint, options: ExportOptions) -> ModelSpec:
    """Understand a checkpoint, and check that its tensors are exactly what its config implies.

    Raises CheckpointError, UnsupportedModel or OptionError; tensor faults are reported all at once.
    """
    family = family_of(checkpoint.config)
    config = family.read_config(checkpoint.config)
    recipe = recipe_for(options.recipe, checkpoint.repo)
    tokenizer = checkpoint.read_tokenizer()
    text = ChatText(
        tokenizer_json=tokenizer.tokenizer_json,
        template=tokenizer.template,
        variables=tokenizer.special_tokens,
        pinned_date=options.pinned_date,
    )
    facts = HeadFacts(
        config=checkpoint.config,
        tensors=checkpoint.tensors,
        hidden_size=config.hidden_size,
        text=text,
        recipe=recipe,
        options=options,
    )
    head = head_of(facts)
    head_spec = head.read_spec(facts)
    requests = dry_run(family, config, head, head_spec)
    ignored = [re.compile(p) for p in (*family.IGNORED, *map(re.escape, head_spec.ignored))]
    check_binding(requests, checkpoint.tensors, head_spec, ignored)
    dtype = _dtype(checkpoint, requests, options)
    stored = _stored(checkpoint, requests, head_spec, dtype)
    layout, format_notes = read_format(text, tokenizer, recipe, options)
    if mixed := sorted({output.per for output in head_spec.outputs} - {layout.unit}):
        raise OptionError(f"the recipe's unit is {layout.unit!r}, its head {head.NAME} scores a {mixed[0]} at a time")
    return ModelSpec(
        family=family,
        config=config,
        head=head,
        head_spec=head_spec,
        recipe=recipe,
        dtype=dtype,
        format=layout,
        backbone=_backbone(checkpoint.config, config, stored),
        tokenizer=tokenizer,
        requests=requests,
        stored=stored,
        notes=(*head_spec.notes, *format_notes, *tokenizer.notes),
    )


def build_graph(
    dialect: type[Dialect], compute_dtype: str, spec: ModelSpec, locations: Mapping[str, WeightLocation]
) -> GraphWriter:
    """The finished graph of one dialect and arithmetic."""
    writer = GraphWriter(locations)
    words = dialect(writer, compute_dtype)
    spec.head.build(words, spec.head_spec, spec.family.backbone(words, spec.config))
    return writer


def dry_run(family: Family, config: FamilyConfig, head: Head, spec: HeadSpec) -> dict[str, WeightRequest]:
    """Which weights a graph of this family and head reads: built once without weights, so never declared twice."""
    writer = GraphWriter(None)
    words = next(iter(dialects().values()))(writer, "fp32")
    head.build(words, spec, family.backbone(words, config))
    return writer.requests


def _dtype(checkpoint: Checkpoint, requests: Mapping[str, WeightRequest], options: ExportOptions) -> str:
    """The asked-for dtype, or the one that holds most of the backbone's bytes on disk (config's may be stale)."""
    held: Counter[str] = Counter()
    for request in requests.values():
        if not request.in_fp32:
            held[checkpoint.tensors[request.name].dtype] += checkpoint.tensors[request.name].nbytes
    if foreign := sorted(set(held) - set(FLOAT_DTYPES)):
        raise CheckpointError(
            f"backbone weights are stored as {', '.join(foreign)}; expected {', '.join(FLOAT_DTYPES)} "
            "(quantized checkpoints must be dequantized first)"
        )
    return options.dtype if options.dtype != "auto" else held.most_common(1)[0][0]


def _stored(
    checkpoint: Checkpoint, requests: Mapping[str, WeightRequest], spec: HeadSpec, dtype: str
) -> tuple[StoredTensor, ...]:
    stored = []
    for name, request in requests.items():
        derived = spec.derived.get(name)
        source = derived.source if derived else name
        kept = checkpoint.tensors[source].dtype if request.in_fp32 else dtype
        rows = derived.rows if derived else None
        stored.append(StoredTensor(name=name, dtype=kept, shape=request.shape, source=source, rows=rows))
    return tuple(stored)


def _backbone(raw: Mapping[str, Any], config: FamilyConfig, stored: tuple[StoredTensor, ...]) -> Backbone:
    parameters = 0
    for tensor in stored:
        size = 1
        for extent in tensor.shape:
            size *= extent
        parameters += size
    return Backbone(
        model_type=str(raw["model_type"]),
        architecture=str((raw.get("architectures") or ["unknown"])[0]),
        hidden_size=config.hidden_size,
        num_layers=config.num_hidden_layers,
        vocab_size=config.vocab_size,
        max_length=config.max_position_embeddings,
        parameters=parameters,
    )
