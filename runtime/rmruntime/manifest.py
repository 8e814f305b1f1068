"""The bundle's manifest: the one definition of the format that rmexport writes and rmruntime reads.

`manifest.json` is these dataclasses as JSON, plus `digest`: the sha256 of the rest in canonical form.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from rmruntime.errors import BundleError
from rmruntime.strict_json import decode_dataclass

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"
# Input and output of a stage's graph: the residual stream [T, hidden] from the stage before, and for the one behind.
HIDDEN_IN, HIDDEN_OUT = "hidden_in", "hidden_out"

FileRole = Literal["graph", "weights", "tokenizer", "template"]
Per = Literal["sequence", "step"]
BosPolicy = Literal["one", "zero", "as-is"]
Scheme = Literal["int8", "int4", "fp8"]
LayoutName = Literal["chat", "graded_turns", "tagged_steps", "separated_steps", "text_pair", "preference"]


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """A file of the bundle, or a source file that was read. `sha256` is None where no byte of it passed through.

    `mtime_ns` is set for hard-linked weights only: whoever rewrites the source rewrites the bundle.
    """

    name: str
    size: int
    role: FileRole | None = None
    sha256: str | None = None
    mtime_ns: int | None = None


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the checkpoint came from; `revision` is the resolved commit for a Hub repository."""

    repo: str | None
    revision: str | None
    files: tuple[FileRecord, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """The transformer under the head. `max_length` is the limit in tokens of one sequence.

    Sequences longer than `rope_length` have other rotary frequencies than shorter ones (None: no length matters), and
    with `rope_exact` every length beyond it has its own.
    """

    model_type: str
    architecture: str
    hidden_size: int
    num_layers: int
    vocab_size: int
    max_length: int
    parameters: int
    rope_length: int | None = None
    rope_exact: bool = False

    def rope_class(self, length: int) -> int:
        """Sequences of one class have the same rotary frequencies, so they may share a pass."""
        if self.rope_length is None or length <= self.rope_length:
            return 0
        return length if self.rope_exact else 1


@dataclass(frozen=True, kw_only=True)
class PositionRule:
    """Which token(s) of a sequence a head reads.

    - `last`: the last token. `last_not_pad`: the last token that is not `pad_id` (transformers >= 4.49).
    - `before_first_pad`: the token before the first `pad_id` in the sequence, the last token where it holds none
      (transformers <= 4.48, INF-ORM, Starling: with pad = eos that may be the end of the first turn).
    - `step_end`: the last token of each step, known from how the layout put the sequence together ("separated_steps").
    - `marker`: the last token of every occurrence of `tokens`.
    - `before_marker`: the token before the last one of every occurrence of `tokens`.
    - `pattern_start`: the first token of the last occurrence of `tokens`.
    """

    rule: Literal["last", "last_not_pad", "before_first_pad", "step_end", "marker", "before_marker", "pattern_start"]
    tokens: tuple[int, ...] = ()
    text: str | None = None
    pad_id: int | None = None


@dataclass(frozen=True, kw_only=True)
class Output:
    """One graph output. `labels` None: one value a read, shape [P]; else shape [P, len(labels)], in that order."""

    name: str
    per: Per
    labels: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Format:
    """How a conversation becomes token ids.

    `layout` says how prompt and answer are put together:
    - "chat": the messages through the chat template.
    - "graded_turns": each user turn holds `prompt + response_joiner + response` (`unit` "sequence") or one step a turn
      (`unit` "step"), each followed by an assistant turn that says `reply`.
    - "tagged_steps" (`unit` "step"): all steps in one assistant turn, `step_tag` behind each, `step_joiner` between.
    - "separated_steps" (`unit` "step"): the prompt's turns through the chat template, then every step and, behind it,
      `step_separator`, each tokenized by itself; read at the last token of each separator.
    - "text_pair": a question and an answer, tokenized by themselves, between the ids of an encoder's special tokens:
      `pair_ids[0]` question `pair_ids[1]` answer `pair_ids[2]`. `pair_prefixes` are put before the two texts;
      `pair_types` are the token types of these five segments, empty for a model that has none.
    - "preference": `preference_template`, Jinja text over `messages` (the prompt's turns), `a` and `b` (two answers),
      is the one user turn that the chat template gets; the score is the probability that `a` is better.

    `template` is the chat template's file, None where messages cannot be rendered; `template_variables` are the special
    tokens it may name; `pinned_date` (ISO) stands for "now" there; `generation_prompt` asks it to open the assistant's
    turn, in layouts that render the prompt alone. `system` is a system turn for conversations that have none.
    `bos`: "one" puts exactly one `bos_id` in front whatever the template wrote, "zero" none, "as-is" leaves the text as
    rendered; `text_bos` then puts it before an already rendered text that lacks it, because this template writes one.
    `append` are ids put behind every sequence, given ones too, that does not end in them; truncation spares them.
    `step_joiner` also joins partial answers when steps are scored by a sequence head; `step_separators` split a plain
    response into steps (the first that occurs in it); `remove` lists texts deleted from responses. `opens_reply`: the
    template opens the reply itself, or the head reads one, so that a conversation without an answer is nothing odd.
    """

    layout: LayoutName
    template: str | None = "chat_template.jinja"
    template_variables: Mapping[str, str] = field(default_factory=dict)
    pinned_date: str | None = None
    generation_prompt: bool = False
    system: str | None = None
    bos: BosPolicy = "as-is"
    bos_id: int | None = None
    text_bos: bool = False
    append: tuple[int, ...] = ()
    unit: Per = "sequence"
    response_joiner: str = " "
    reply: str | None = None
    remove: tuple[str, ...] = ()
    step_separators: tuple[str, ...] = ()
    step_joiner: str = ""
    step_tag: str | None = None
    step_separator: str | None = None
    pair_ids: tuple[tuple[int, ...], ...] = ()
    pair_types: tuple[int, ...] = ()
    pair_prefixes: tuple[str, str] = ("", "")
    preference_template: str | None = None
    opens_reply: bool = False


@dataclass(frozen=True, kw_only=True)
class WeightRange:
    """Bytes `offset` to `offset + nbytes` of a weight file."""

    file: str
    offset: int
    nbytes: int


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A graph of the layers `first` to `last` alone, which hands its hidden states to the next stage's.

    The first stage has the embedding, the last the head. It reads weights of `weight_bytes`, which lie in `ranges`:
    what is close together is one range, with what lies between.
    """

    file: str
    first: int
    last: int
    weight_bytes: int
    ranges: tuple[WeightRange, ...]


@dataclass(frozen=True, kw_only=True)
class Graph:
    """One ONNX graph over the bundle's weights; (dialect, compute_dtype, layout) is its key.

    `key_multiple`: attention rows' key lengths are padded to a multiple of it (scores then do not depend on the
    batch). `query_block`: the most queries an attention row may hold. `row_groups`: how many row groups it takes.
    `token_chunk`: about how many tokens its token-by-token parts take at a time, 0 for all at once.
    `stages`: the same in parts that are graphs of their own, empty where the export was not asked for them.
    `pad_id`: the token that fills the rows of a padded graph. `attention`: how tokens of a packed graph find their
    keys: "rows" of queries and keys, or "pages" of `page_size` keys each that sequences share. A pass reads at
    least `least_reads` tokens, because fewer would take other kernels, with other rounding.
    """

    file: str
    dialect: str
    compute_dtype: str
    layout: Literal["packed", "padded"] = "packed"
    key_multiple: int = 16
    query_block: int = 128
    row_groups: int = 1
    token_chunk: int = 0
    pad_id: int = 0
    attention: Literal["rows", "pages"] = "rows"
    page_size: int = 0
    stages: tuple[Stage, ...] = ()
    least_reads: int = 2

    def of_stage(self, stage: Stage) -> "Graph":
        """The stage's graph, which takes the same inputs."""
        return replace(self, file=stage.file)


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """How the backbone's linear layers are stored; `parameters` of its weights are. All else has the bundle's dtype.

    - "int8": whole numbers, a scale an output channel. "fp8": e4m3 numbers, likewise.
    - "int4": whole numbers, two a byte, a scale for each `block_size` inputs of an output channel; layers whose inputs
      are no multiple of that are int8.
    """

    scheme: Scheme
    parameters: int
    block_size: int = 0


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything a runtime needs to know; nothing about heads or families by name is needed to score.

    `options` are the choices that the export was given, so that it can be verified and repeated. `score` names the
    output that is the score, None when the head defines no single number. `dtype` is that of the arithmetic and of the
    weights that are not in `quantization`.
    """

    schema_version: int
    created_by: str
    source: Source
    backbone: Backbone
    head: str
    dtype: str
    options: Mapping[str, str]
    format: Format
    positions: Mapping[str, PositionRule]
    outputs: tuple[Output, ...]
    score: str | None
    graphs: tuple[Graph, ...]
    files: tuple[FileRecord, ...]
    notes: tuple[str, ...] = ()
    quantization: Quantization | None = None

    def weight_bytes(self, graph: Graph) -> int:
        """Bytes of the weights that a graph, or `Graph.of_stage`, reads."""
        own = [stage.weight_bytes for stage in graph.stages if stage.file == graph.file]
        return own[0] if own else sum(file.size for file in self.files if file.role == "weights")

    def weight_share(self, graph: Graph) -> float:
        """The same as a share of all weights."""
        return self.weight_bytes(graph) / max(1, sum(file.size for file in self.files if file.role == "weights"))


def canonical(data: Mapping[str, Any]) -> bytes:
    """JSON with sorted keys and no spaces: what the digest is taken over."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest(data: Mapping[str, Any]) -> str:
    """sha256 of the manifest without its own `digest` field."""
    return hashlib.sha256(canonical({k: v for k, v in data.items() if k != "digest"})).hexdigest()


def encode_manifest(manifest: Manifest) -> bytes:
    """The bytes of `manifest.json`, digest included."""
    data = json.loads(json.dumps(asdict(manifest)))
    return (json.dumps({**data, "digest": digest(data)}, indent=1, ensure_ascii=False) + "\n").encode()


def decode_manifest(raw: bytes) -> Manifest:
    """Parse and check `manifest.json`.

    Raises BundleError for anything but a valid manifest of this schema version or an older one.
    """
    try:
        data = json.loads(raw)
    except ValueError as error:
        raise BundleError(f"{MANIFEST_NAME} is not JSON ({error}); export the bundle again") from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if not isinstance(version, int):
        raise BundleError(f"{MANIFEST_NAME} has no schema_version; it was not written by rmexport")
    if version > SCHEMA_VERSION:
        raise BundleError(
            f"this bundle has schema_version {version}, this rmruntime reads up to {SCHEMA_VERSION}: "
            "upgrade rmruntime, or export again with the rmexport that matches it"
        )
    stated = data.pop("digest", None)
    if stated != digest(data):
        raise BundleError(
            f"{MANIFEST_NAME} does not match its own digest (found {digest(data)[:12]}, "
            f"stated {str(stated)[:12]}): it was changed after export; export the bundle again"
        )
    return decode_dataclass(Manifest, data, where=MANIFEST_NAME)
