"""The bundle's manifest: the one definition of the format that rmexport writes and rmruntime reads.

`manifest.json` is these dataclasses as JSON, plus `digest`: the sha256 of the rest in canonical form.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Annotated, Any, Literal

from rmruntime.bundle.graph_names import past_outputs
from rmruntime.bundle.strict_json import Between, Items, Matching, OneOf, decode_dataclass, parse_json
from rmruntime.errors import BundleError

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"
TOKENIZER_NAME = "tokenizer.json"

FileRole = Literal["graph", "weights", "tokenizer", "template"]
Per = Literal["sequence", "step"]
BosPolicy = Literal["one", "zero", "as-is"]
Scheme = Literal["int8", "int4", "fp8"]
# Ranges of the fields below for any model; graph_check checks them against the graphs.
PLAIN_NAME = Matching(r"(?!/)(?!(.*/)?\.\.(/|$))[^\\\x00-\x1f\x7f*?<>|]{1,1024}", "a plain name inside the bundle")
FileName = Annotated[str, PLAIN_NAME]
GraphName = Annotated[FileName, Matching(r".*\.onnx", "a name that ends in .onnx")]
Sha256 = Annotated[str, Matching("[0-9a-f]{64}", "64 hexadecimal digits")]
Dtype = Annotated[str, OneOf("fp32", "bf16", "fp16")]
Bytes = Annotated[int, Between(0, 1 << 50)]
Nanoseconds = Annotated[int, Between(-(1 << 63), (1 << 63) - 1)]
TokenId = Annotated[int, Between(0, (1 << 31) - 1)]
PadId = Annotated[int, Between(-(1 << 31), (1 << 31) - 1)]  # some checkpoints have -1, which is no token's id
TokenType = Annotated[int, Between(0, 255)]
Length = Annotated[int, Between(1, 1 << 28)]  # in tokens
Layer = Annotated[int, Between(0, 9_999)]
Parameters = Annotated[int, Between(0, 1 << 50)]
LayoutName = Literal[
    "chat", "graded_turns", "tagged_steps", "separated_steps", "text_pair", "preference", "query_document"
]


WHERE_USED = {"written": "where used"}  # fields that manifests without them leave out, as before there were any


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """A file of the bundle, or a source file; `size` is in bytes. `sha256` is None where the export did not read it.

    `mtime_ns` is set for hard-linked weights only: a program that rewrites the checkpoint rewrites them too.
    """

    name: str
    size: Bytes
    role: FileRole | None = None
    sha256: Sha256 | None = None
    mtime_ns: Nanoseconds | None = None


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the checkpoint came from; `revision` is the resolved commit for a Hub repository."""

    repo: str | None
    revision: str | None
    files: tuple[FileRecord, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """The transformer under the head. `max_length` is the limit of one sequence, in tokens.

    Sequences longer than `rope_length` have other rotary frequencies than shorter ones (None: the length makes no
    difference), and with `rope_exact` every length beyond it has its own.
    """

    model_type: str
    architecture: str
    hidden_size: Annotated[int, Between(1, 1 << 20)]
    num_layers: Annotated[int, Between(1, 10_000)]
    vocab_size: Annotated[int, Between(1, (1 << 31) - 1)]
    max_length: Length
    parameters: Parameters
    rope_length: Length | None = None
    rope_exact: bool = False

    def rope_class(self, length: int) -> int:
        """The class of a sequence length: sequences of one class have the same rotary frequencies and may share a pass.

        >>> sizes = dict(hidden_size=8, num_layers=1, vocab_size=9, parameters=1)
        >>> phi3 = Backbone(model_type="phi3", architecture="", max_length=131072, rope_length=4096, **sizes)
        >>> phi3.rope_class(4096), phi3.rope_class(4097)
        (0, 1)
        """
        if self.rope_length is None or length <= self.rope_length:
            return 0
        return length if self.rope_exact else 1


@dataclass(frozen=True, kw_only=True)
class PositionRule:
    """Which token or tokens of a sequence a head scores.

    - `every`: all tokens; outputs are the means of theirs (`Output.mean`).
    - `last`: the last token. `last_not_pad`: the last token that is not `pad_id` (transformers >= 4.49).
    - `before_first_pad`: the token before the first `pad_id` in the sequence, the last token where there is none
      (transformers <= 4.48, INF-ORM, Starling: with pad = eos that may be the end of the first turn).
    - `step_end`: the last token of each step, which the layout "separated_steps" knows.
    - `marker`: the last token of every occurrence of `tokens`.
    - `before_marker`: the token before the last one of every occurrence of `tokens`.
    - `pattern_start`: the first token of the last occurrence of `tokens`.
    """

    rule: Literal[
        "every", "last", "last_not_pad", "before_first_pad", "step_end", "marker", "before_marker", "pattern_start"
    ]
    tokens: Annotated[tuple[TokenId, ...], Items(0, 1024)] = ()
    text: str | None = None
    pad_id: PadId | None = None


@dataclass(frozen=True, kw_only=True)
class Output:
    """One graph output. `labels` None: one value per scored position, [P]; else [P, len(labels)], in that order.

    `mean`: the conversation's is the mean over its scored positions.
    """

    name: str
    per: Per
    labels: Annotated[tuple[str, ...], Items(1, 1 << 20, distinct=True)] | None = None
    mean: bool = field(default=False, metadata=WHERE_USED)


@dataclass(frozen=True, kw_only=True)
class Format:
    """How a conversation becomes token ids.

    `layout` says how prompt and answer are put together:
    - "chat": the messages through the chat template, then `reply`, tokenized by itself: what the judge's own reply is
      made to begin with. `question` is Jinja text of a user turn put after the answer, with the name `instruction`;
      where it, or the template, takes one (`takes_instruction`), the instruction is the system turn.
    - "graded_turns": each user turn is `prompt + response_joiner + response` (`unit` "sequence") or one step (`unit`
      "step"), followed by an assistant turn with the text `reply`.
    - "tagged_steps" (`unit` "step"): all steps in one assistant turn, `step_tag` after each, `step_joiner` between.
    - "separated_steps" (`unit` "step"): the prompt's turns through the chat template, then every step and, after it,
      `step_separator`, each tokenized by itself; the last token of each separator is scored.
    - "text_pair": a question and an answer, tokenized by themselves, between the ids of an encoder's special tokens:
      `pair_ids[0]` question `pair_ids[1]` answer `pair_ids[2]`. `pair_prefixes` are put before the two texts;
      `pair_types` are the token types of these five segments, empty for a model that has none.
    - "preference": one user turn, rendered from the Jinja template `preference_template` with `messages` (the prompt's
      turns), `a` and `b` (two answers); the score is the probability that `a` is better.
    - "query_document": a query (the prompt's user turn) and a document (the answer), with an instruction (the system
      turn) where `takes_instruction`. `pieces` are Jinja templates of the parts, each tokenized by itself, with the
      names `query`, `document` and `instruction`, which is empty where there is none; without them the chat template
      renders messages of the roles system, query and document. Truncation takes tokens of the document alone.

    `template` is the chat template's file, None where messages cannot be rendered; `template_variables` are the special
    tokens it may name; `pinned_date` (ISO) is the date that templates get as today's; `generation_prompt` asks the
    template to open the assistant's turn, in "chat" and in layouts that render the prompt alone. `system` is a system
    turn for conversations that have none.
    `bos`: "one" puts exactly one `bos_id` in front whatever the template wrote, "zero" none, "as-is" leaves the text as
    rendered; `text_bos` then puts it before an already rendered text that lacks it, because this template writes one.
    `append` are ids put after every sequence that does not end in them, input_ids included; truncation keeps them.
    `step_joiner` also joins partial answers when steps are scored by a sequence head; `step_separators` split a plain
    response into steps (the first that occurs in it); `remove` lists texts deleted from responses. `opens_reply`: the
    template opens the reply itself, or the head reads one, so that a conversation without an answer gets no flag.
    """

    layout: LayoutName
    template: str | None = "chat_template.jinja"
    template_variables: Mapping[str, str] = field(default_factory=dict)
    pinned_date: str | None = None
    generation_prompt: bool = False
    system: str | None = None
    bos: BosPolicy = "as-is"
    bos_id: TokenId | None = None
    text_bos: bool = False
    append: Annotated[tuple[TokenId, ...], Items(0, 1024)] = ()
    unit: Per = "sequence"
    response_joiner: str = " "
    reply: str | None = None
    remove: tuple[str, ...] = ()
    step_separators: tuple[str, ...] = ()
    step_joiner: str = ""
    step_tag: str | None = None
    step_separator: str | None = None
    pair_ids: Annotated[tuple[tuple[TokenId, ...], ...], Items(0, 3)] = ()
    pair_types: Annotated[tuple[TokenType, ...], Items(0, 5)] = ()
    pair_prefixes: tuple[str, str] = ("", "")
    preference_template: str | None = None
    pieces: tuple[str, ...] = ()
    takes_instruction: bool = False
    opens_reply: bool = False
    question: str | None = field(default=None, metadata=WHERE_USED)


@dataclass(frozen=True, kw_only=True)
class WeightRange:
    """The bytes from `offset` to `offset + nbytes` of a weight file."""

    file: FileName
    offset: Bytes
    nbytes: Bytes


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A graph of the layers `first` to `last` only, which passes its hidden states to the next stage's graph.

    The first stage has the embedding, the last the head. It reads `weight_bytes` bytes of weights, which are in
    `ranges`: weights that are close together share a range, with the bytes between them. `past` is the file of its form
    with a past.
    """

    file: GraphName
    first: Layer
    last: Layer
    weight_bytes: Bytes
    ranges: tuple[WeightRange, ...]
    past: GraphName | None = None


@dataclass(frozen=True, kw_only=True)
class Past:
    """The form of a graph that takes keys and values of earlier tokens and returns those of its own, or keeps them.

    `features` is the width of one token's keys, and of its values, in each layer
    (`rmruntime.bundle.graph_names.PastNames`). Where attention is by pages, every layer's are in pages of its own.
    """

    file: GraphName
    features: Annotated[int, Between(1, 1 << 20)]


@dataclass(frozen=True, kw_only=True)
class Graph:
    """One ONNX graph over the bundle's weights; (dialect, compute_dtype, layout) is its key.

    `key_multiple`: attention rows' key lengths are padded to a multiple of it (scores then do not depend on the
    batch). `query_block`: the most queries in one attention row. `row_groups`: how many row groups it takes.
    `token_chunk`: about how many tokens its token-by-token parts compute at a time, 0 for all at once.
    `stages`: the graph's layers split into graphs of their own, empty unless the export was asked for them.
    `pad_id`: the token that fills the rows of a padded graph. `attention`: how tokens of a packed graph find their
    keys: "rows" of queries and keys, or "pages" of `page_size` keys each that sequences share. `least_reads`: the
    fewest positions that a pass scores, because fewer would use other kernels, with other rounding. `past`: the same
    graph for passes that continue earlier ones, None where there is none. `causal`: a token sees those before it;
    otherwise all of its sequence, so that sequences share nothing and there is no past.
    """

    file: GraphName
    dialect: str
    compute_dtype: Dtype
    layout: Literal["packed", "padded"] = "packed"
    key_multiple: Annotated[int, Between(1, 4096)] = 16
    query_block: Annotated[int, Between(1, 4096)] = 128
    row_groups: Annotated[int, Between(1, 64)] = 1
    token_chunk: Annotated[int, Between(0, 1 << 20)] = 0
    pad_id: TokenId = 0
    attention: Literal["rows", "pages"] = "rows"
    page_size: Annotated[int, Between(0, 1 << 16)] = 0
    stages: Annotated[tuple[Stage, ...], Items(0, 10_000)] = ()
    least_reads: Annotated[int, Between(1, 4096)] = 2
    past: Past | None = None
    causal: bool = field(default=True, metadata=WHERE_USED)

    @property
    def takes_past(self) -> bool:
        """Whether this is the form with a past, which `of_past` returned, or a stage of it."""
        return self.past is not None and self.file in (self.past.file, *(stage.past for stage in self.stages))

    def of_past(self) -> "Graph":
        """The form with a past, which takes the same inputs and more; of a graph that has one."""
        assert self.past is not None
        stages = tuple(replace(stage, file=stage.past) for stage in self.stages if stage.past is not None)
        return replace(self, file=self.past.file, stages=stages)

    def of_stage(self, stage: Stage) -> "Graph":
        """The stage's graph, which takes the same inputs."""
        return replace(self, file=stage.file)


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """How the backbone's linear layers are quantized. All other weights have the bundle's dtype.

    `parameters` is how many weights are quantized.
    - "int8": integers, one scale per output channel. "fp8": e4m3 numbers, one scale per output channel.
    - "int4": integers, two per byte, one scale for each `block_size` inputs of an output channel; layers whose number
      of inputs is not a multiple of that are int8.
    """

    scheme: Scheme
    parameters: Parameters
    block_size: Annotated[int, Between(0, 1 << 16)] = 0


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything that a runtime needs in order to score; it needs no code per head or family.

    `options` are the options of the export, so that it can be verified and repeated. `score` names the output that is
    the score, None when the head defines no single number. `dtype` is that of the arithmetic and of the weights that
    are not quantized.
    """

    schema_version: Annotated[int, Between(1, 1)]
    created_by: str
    source: Source
    backbone: Backbone
    head: str
    dtype: Dtype
    options: Mapping[str, str]
    format: Format
    positions: Mapping[str, PositionRule]
    outputs: Annotated[tuple[Output, ...], Items(1, 100)]
    score: str | None
    graphs: Annotated[tuple[Graph, ...], Items(0, 100)]
    files: Annotated[tuple[FileRecord, ...], Items(0, 100_000)]
    notes: tuple[str, ...] = ()
    quantization: Quantization | None = None

    def weight_bytes(self, graph: Graph) -> int:
        """Bytes of the weights that a graph, or `Graph.of_stage`, reads."""
        own = [stage.weight_bytes for stage in graph.stages if stage.file == graph.file]
        return own[0] if own else sum(file.size for file in self.files if file.role == "weights")

    def weight_share(self, graph: Graph) -> float:
        """`weight_bytes` as a share of all weights, 0 to 1."""
        return self.weight_bytes(graph) / max(1, sum(file.size for file in self.files if file.role == "weights"))

    def past_outputs(self, graph: Graph) -> tuple[str, ...]:
        """Keys and values that a graph returns beside the outputs; none without a past, nor where pages keep them."""
        by_rows = graph.takes_past and graph.attention == "rows"
        return past_outputs(self.backbone.num_layers) if by_rows else ()


def canonical(data: Mapping[str, Any]) -> bytes:
    """JSON with sorted keys and no spaces, over which the digest is computed.

    >>> canonical({"b": 1, "a": 2})
    b'{"a":2,"b":1}'
    """
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest(data: Mapping[str, Any]) -> str:
    """sha256 of the manifest without its own `digest` field.

    >>> digest({"a": 1}) == digest({"a": 1, "digest": "an older one"})
    True
    """
    return hashlib.sha256(canonical({k: v for k, v in data.items() if k != "digest"})).hexdigest()


def manifest_data(manifest: Manifest) -> dict[str, Any]:
    """The manifest as JSON has it, without its digest."""
    data: dict[str, Any] = json.loads(json.dumps(_written(manifest)))
    return data


def _written(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_written(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _written(item) for key, item in value.items()}
    if not is_dataclass(value):
        return value
    held = {f: getattr(value, f.name) for f in fields(value)}
    return {f.name: _written(v) for f, v in held.items() if f.metadata != WHERE_USED or v != f.default}


def encode_manifest(manifest: Manifest) -> bytes:
    """The bytes of `manifest.json`: the manifest as JSON, with its digest."""
    data = manifest_data(manifest)
    return (json.dumps({**data, "digest": digest(data)}, indent=1, ensure_ascii=False) + "\n").encode()


def decode_manifest(raw: bytes) -> Manifest:
    """Parse and check `manifest.json`.

    Raises BundleError for anything but a valid manifest of this schema version or an older one.

    >>> decode_manifest(b"{}")
    Traceback (most recent call last):
    rmruntime.errors.BundleError: manifest.json has no schema_version, so it was not written by rmexport; ...
    """
    try:
        data = parse_json(raw)
    except ValueError as error:
        raise BundleError(f"{MANIFEST_NAME} is not JSON ({error}); export the bundle again") from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if type(version) is not int:
        raise BundleError(
            f"{MANIFEST_NAME} has no schema_version, so it was not written by rmexport; give a folder that "
            "`rmexport export` made"
        )
    if version > SCHEMA_VERSION:
        raise BundleError(
            f"this bundle has schema_version {version}, this rmruntime reads up to {SCHEMA_VERSION}: "
            "upgrade rmruntime, or export again with the rmexport that matches it"
        )
    stated = data.pop("digest", None)
    try:
        found = digest(data)
    except (RecursionError, UnicodeError) as error:
        raise BundleError(
            f"{MANIFEST_NAME} is not a manifest ({type(error).__name__}); export the bundle again"
        ) from error
    if stated != found:
        raise BundleError(
            f"{MANIFEST_NAME} does not match its own digest (found {found[:12]}, "
            f"stated {str(stated)[:12]}): it was changed after export; export the bundle again"
        )
    return decode_dataclass(Manifest, data, where=MANIFEST_NAME)
