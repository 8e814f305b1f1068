"""Everything an export decides about a checkpoint before writing a byte: family, head, dtype, format, weights."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rmexport.checkpoint import Checkpoint
from rmexport.checkpoint.config_fields import TOKEN_ID, Range, architectures, flag, optional_integer
from rmexport.checkpoint.derived_tensors import (
    Derived,
    TensorAlias,
    found_prefix,
    rename,
    renamed,
    sources_of,
)
from rmexport.checkpoint.quantized_tensors import refuse_quantized
from rmexport.dialects import dialects
from rmexport.errors import OptionError, UnsupportedModel
from rmexport.families import Family, FamilyConfig, family_of
from rmexport.graph.decoder_writer import DecoderWriter
from rmexport.graph.dialect import Dialect
from rmexport.graph.head_writer import HeadWriter
from rmexport.graph.stages import LayerSpan
from rmexport.graph.writer import GraphWriter
from rmexport.heads import Candidate, ChosenHead, Head, HeadFacts, head_of, read_head, refuse_known
from rmexport.options import ExportOptions
from rmexport.prompt.cross_encoder import cross_encoder_recipe
from rmexport.prompt.format import read_format
from rmexport.prompt.recipe import Recipe, recipe_for
from rmexport.spec.checkpoint_spec import CheckpointSpec, choose_dtype, family_reason
from rmexport.spec.tensor_check import check_binding, check_layers
from rmexport.weights import WeightLocation, WeightSpec
from rmexport.weights.quantization import BLOCK, SCALE_SUFFIX, Quantized, scheme_for
from rmexport.weights.weight_spec import WeightRequest
from rmruntime.bundle.manifest import Backbone, Output, PositionRule, Quantization, Scheme


@dataclass(frozen=True, kw_only=True)
class ModelSpec(CheckpointSpec):
    """A checkpoint whose graphs are built: a backbone written in our operations, and its head.

    `requests` are the weights that the graphs read, by name; `prefixes` say where the checkpoint keeps what the family
    has under another name.
    """

    family: Family
    config: FamilyConfig
    head: Head
    prefixes: Mapping[str, str]
    requests: Mapping[str, WeightRequest]
    weights: tuple[WeightSpec, ...]

    @property
    def positions(self) -> Mapping[str, PositionRule]:
        """The head's."""
        return self.head.positions

    @property
    def outputs(self) -> tuple[Output, ...]:
        """The head's."""
        return self.head.outputs

    @property
    def score(self) -> str | None:
        """The head's."""
        return self.head.score


def read_spec(checkpoint: Checkpoint, options: ExportOptions) -> ModelSpec:
    """Understand a checkpoint, and check that its tensors are exactly what its config implies.

    Raises CheckpointError, UnsupportedModel or OptionError; tensor faults are reported all at once.
    """
    refuse_quantized(checkpoint.config, checkpoint.tensors)
    candidate = _with_cross_encoder(_candidate(checkpoint, options), checkpoint.folder)
    family = _family(candidate)
    config = family.read_config(checkpoint.config)
    chosen = head_of(_facts(candidate, family, config))
    name, facts, head = chosen.kind.name, chosen.facts, _scored(read_head(chosen), chosen.facts.recipe)
    prefixes = {**found_prefix(family.embedding, checkpoint.tensors), **head.prefixes}
    check_layers(config.num_hidden_layers, rename(family.embedding, prefixes), checkpoint.tensors)
    requests = dry_run(family, config, head)
    made = _made(requests, {**family.derived(config), **head.derived}, prefixes)
    ignored = [re.compile(p) for p in (*family.ignored, *map(_as_pattern, head.ignored))]
    check_binding(requests, checkpoint.tensors, made, ignored, heads=[t.name for t in facts.one_row_layers.values()])
    dtype = _dtype(checkpoint, requests, made, options)
    weights = _quantized(_weights(checkpoint, requests, made, dtype), requests, options.quantize)
    layout, format_notes = read_format(facts.text, facts.tokenizer, facts.recipe, options, head.append)
    if mixed := sorted({output.per for output in head.outputs} - {layout.unit}):
        raise OptionError(f"the recipe's unit is {layout.unit!r}, its head {name} scores a {mixed[0]} at a time")
    return ModelSpec(
        family_name=family.model_types[0],
        head_name=name,
        recipe=facts.recipe,
        dtype=dtype,
        backbone=_backbone(checkpoint.config, config, requests),
        format=layout,
        tokenizer=facts.tokenizer,
        because=_because(chosen),
        quantization=_quantization(weights, options.quantize),
        family=family,
        config=config,
        head=head,
        prefixes=prefixes,
        requests=requests,
        weights=weights,
        notes=(*checkpoint.notes, *head.notes, *format_notes, *facts.tokenizer.notes),
    )


def _scored(head: Head, recipe: Recipe | None) -> Head:
    """The head with the score that the recipe names. Raises OptionError where it has no such output."""
    if recipe is None or recipe.score_output is None:
        return head
    outputs = [output.name for output in head.outputs]
    if recipe.score_output not in outputs:
        raise OptionError(
            f"recipe {recipe.name!r} has score_output {recipe.score_output!r}, which its head does not have: expected "
            f"one of {', '.join(outputs)}"
        )
    return replace(head, score=recipe.score_output)


def _candidate(checkpoint: Checkpoint, options: ExportOptions) -> Candidate:
    return Candidate(
        config=checkpoint.config,
        tensors=checkpoint.tensors,
        tokenizer_files=checkpoint.read_tokenizer(),
        recipe=recipe_for(options.recipe, checkpoint.repo),
        options=options,
    )


def _with_cross_encoder(candidate: Candidate, folder: Path) -> Candidate:
    """The candidate with the recipe of Sentence Transformers' files, where neither user nor repository has one."""
    if candidate.recipe is not None:
        return candidate
    row = candidate.tensors.get("score.weight")
    return replace(candidate, recipe=cross_encoder_recipe(folder, row.shape[0] if row else 1, candidate.text))


def _because(chosen: ChosenHead) -> dict[str, str]:
    """Why the checkpoint is of this family, head and format."""
    facts = chosen.facts
    template = "its chat template" if facts.tokenizer.template else "no chat template: conversations come rendered"
    return {
        "family": family_reason(str(facts.config["model_type"])),
        "head": chosen.reason,
        "format": f"the recipe {facts.recipe.name}" if facts.recipe else template,
    }


def _facts(candidate: Candidate, family: Family, config: FamilyConfig) -> HeadFacts:
    """The candidate beside what its family says."""
    tied = {"tie_word_embeddings": family.tied_by_default, **candidate.config}
    return HeadFacts(
        config=candidate.config,
        tensors=candidate.tensors,
        tokenizer_files=candidate.tokenizer_files,
        recipe=candidate.recipe,
        options=candidate.options,
        hidden_size=config.hidden_size,
        embedding=family.embedding,
        lm_head=family.lm_head,
        tied=flag(tied, "tie_word_embeddings"),
        pad_id=_pad_id(candidate.config, family),
    )


def _pad_id(raw: Mapping[str, Any], family: Family) -> int | None:
    """As transformers has it: of the text's own config where there is one, the family's default where it is absent."""
    text = raw.get("text_config")
    own = text if isinstance(text, dict) else raw
    stated = {"pad_token_id": family.default_pad_id, **own}
    pad_id = optional_integer(stated, "pad_token_id", Range(-1, TOKEN_ID.most))
    return None if pad_id == -1 else pad_id  # which Llama 1 says, and no token is


def _family(candidate: Candidate) -> Family:
    """The family, or the error of a head that is known and not supported where the backbone is unknown too."""
    try:
        return family_of(candidate.config)
    except UnsupportedModel:
        refuse_known(candidate)
        raise


def _as_pattern(ignored: str) -> str:
    """A tensor's name, or with `*` at the end the beginning of several, as a regular expression."""
    return re.escape(ignored.removesuffix("*")) + (".*" if ignored.endswith("*") else "")


def build_graph(
    dialect: type[Dialect],
    compute_dtype: str,
    spec: ModelSpec,
    locations: Mapping[str, WeightLocation],
    span: LayerSpan | None = None,
    *,
    past: bool = False,
) -> GraphWriter:
    """The finished graph of one dialect and arithmetic: of all layers, or of a span of them; `past`: with a past.

    The embedding is in the graph of the first layer, the head in that of the last.
    """
    # Names of values are enough: a graph with a past would else be larger than one without.
    writer = GraphWriter(locations, node_names=not past)
    d = DecoderWriter(dialect(writer, compute_dtype), span, past=past)
    hidden = spec.family.backbone(d, spec.config)
    if d.span.end is None:
        spec.head.build(HeadWriter(writer), hidden)
    else:
        d.hand_over(hidden, spec.config.hidden_size)
    return writer


def dry_run(family: Family, config: FamilyConfig, head: Head) -> dict[str, WeightRequest]:
    """Which weights a graph of this family and head reads: built once without weights, so never declared twice."""
    writer = GraphWriter(None)
    d = DecoderWriter(next(iter(dialects().values()))(writer, "fp32"))
    head.build(HeadWriter(writer), family.backbone(d, config))
    return writer.requests


def _dtype(
    checkpoint: Checkpoint,
    requests: Mapping[str, WeightRequest],
    made: Mapping[str, Derived],
    options: ExportOptions,
) -> str:
    """`choose_dtype` of the backbone's weights."""
    sources = (source for name, request in requests.items() if not request.in_fp32 for source in sources_of(made[name]))
    return choose_dtype((checkpoint.tensors[source] for source in sources), options)


def _made(
    requests: Mapping[str, WeightRequest], derived: Mapping[str, Derived], prefixes: Mapping[str, str]
) -> dict[str, Derived]:
    """What each weight is made of: as family or head say, else the tensor of its name."""
    return {name: renamed(derived.get(name) or TensorAlias(source=name), prefixes) for name in requests}


def _weights(
    checkpoint: Checkpoint, requests: Mapping[str, WeightRequest], made: Mapping[str, Derived], dtype: str
) -> tuple[WeightSpec, ...]:
    """Each as the bundle's dtype, or as its checkpoint tensor has it where it is read in fp32."""
    held = {name: checkpoint.tensors[sources_of(part)[0]].dtype for name, part in made.items()}
    return tuple(
        WeightSpec(name, held[name] if request.in_fp32 else dtype, request.shape, made[name])
        for name, request in requests.items()
    )


def _quantized(
    weights: tuple[WeightSpec, ...], requests: Mapping[str, WeightRequest], scheme: Scheme | None
) -> tuple[WeightSpec, ...]:
    """The same with the matrices of linear layers as codes, each followed by its scales."""
    if scheme is None:
        return weights
    return tuple(part for w in weights for part in (_parts(w, scheme) if requests[w.name].linear else (w,)))


def _parts(weight: WeightSpec, scheme: Scheme) -> tuple[WeightSpec, WeightSpec]:
    rows, columns = weight.shape
    codes = Quantized(scheme_for(scheme, weight.shape), "codes", (rows, columns), weight.dtype)
    scale = replace(codes, part="scale")
    return (
        replace(weight, dtype=codes.dtype, shape=codes.stored_shape, quant=codes),
        replace(weight, name=weight.name + SCALE_SUFFIX, shape=scale.stored_shape, quant=scale),
    )


def _quantization(weights: tuple[WeightSpec, ...], scheme: Scheme | None) -> Quantization | None:
    if scheme is None:
        return None
    shapes = [w.quant.shape for w in weights if w.quant and w.quant.part == "codes"]
    return Quantization(
        scheme=scheme,
        parameters=sum(map(math.prod, shapes)),
        block_size=BLOCK if scheme == "int4" else 0,
    )


def _backbone(raw: Mapping[str, Any], config: FamilyConfig, requests: Mapping[str, WeightRequest]) -> Backbone:
    return Backbone(
        model_type=str(raw["model_type"]),
        architecture=(*architectures(raw), "unknown")[0],
        hidden_size=config.hidden_size,
        num_layers=config.num_hidden_layers,
        vocab_size=config.vocab_size,
        max_length=config.max_position_embeddings,
        parameters=sum(math.prod(request.shape) for request in requests.values()),
        rope_length=config.rope_length,
        rope_exact=config.rope_exact,
    )
