"""Scores a file of records into a file of results, in input order, a window of records at a time."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rmruntime.batching.runner import Advance, Statistics
from rmruntime.batching.source import IterableSource
from rmruntime.errors import DeviceLimit, InputError, NonFiniteScore, RecordError, RewardModelError
from rmruntime.option_checks import COUNT, check_fields
from rmruntime.options import EngineOptions, ScoreOptions, takes_engine_fields
from rmruntime.records import Request
from rmruntime.records.distinct_files import check_distinct
from rmruntime.records.reader import Record, read_records
from rmruntime.records.writer import RecordWriter, open_writer
from rmruntime.reward_model import RewardModel, ScoredWindow
from rmruntime.scores import RankedDocument, Score, Scored, ranked
from rmruntime.text.flags import SUMMARIES, kinds_of

Fields = Callable[[Request | InputError, Scored | InputError], dict[str, object]]  # of a record's result


@dataclass(frozen=True, kw_only=True)
class RankOptions:
    """How documents are written in their order: the first `top` of each query, themselves or by index and id alone."""

    top: int | None = None
    documents: bool = True

    def __post_init__(self) -> None:
        """Raises OptionError for a `top` below 1."""
        check_fields(self, {"top": COUNT})


@takes_engine_fields()
@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """Where records come from and go to, the engine, and whether a bad record stops the run or is reported in place.

    With `rank` each record's documents, or responses, are written in the order of their scores.
    """

    input: str | Path
    output: str | Path | None = None
    engine: EngineOptions = field(default_factory=EngineOptions)
    on_error: Literal["stop", "skip"] = "stop"
    rank: RankOptions | None = None

    def __post_init__(self) -> None:
        """Raises OptionError for a value that is none of the choices, or of another type."""
        check_fields(self, {})


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a run did; `pairs_right` of `pairs` had chosen above rejected, a tie counts half.

    `sets_right` of `sets`, records with lists of chosen and rejected answers, had every chosen above every rejected.
    `flagged` counts records by the kinds of their flags (`rmruntime.text.flags`). `reason` says why this engine was
    chosen, as `RewardModel.backend_reason` does, and `prefix_cache` what `RewardModel.prefix_cache` says.
    """

    backend: str
    precision: str
    reason: str = ""
    prefix_cache: str = ""
    records: int = 0
    errors: int = 0
    pairs: int = 0
    pairs_right: float = 0.0
    sets: int = 0
    sets_right: float = 0.0
    truncated: int = 0
    flagged: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    statistics: Statistics = field(default_factory=Statistics)

    def __add__(self, other: "Summary") -> "Summary":
        """Of both, which one engine scored."""
        counts = (
            "records",
            "errors",
            "pairs",
            "pairs_right",
            "sets",
            "sets_right",
            "truncated",
            "seconds",
            "statistics",
        )
        flagged = dict(Counter(self.flagged) + Counter(other.flagged))
        return replace(self, flagged=flagged, **{n: getattr(self, n) + getattr(other, n) for n in counts})

    @classmethod
    def decoded(cls, fields: Mapping[str, Any]) -> "Summary":
        """From what dataclasses.asdict made of one.

        >>> from dataclasses import asdict
        >>> Summary.decoded(asdict(Summary(backend="ort-cpu", precision="fp32", records=3))).records
        3
        """
        return cls(**{**fields, "statistics": Statistics(**fields["statistics"])})

    def text(self) -> str:
        """The lines printed at the end.

        >>> print(Summary(backend="ort-cpu", precision="fp32", records=2, pairs=2, pairs_right=1.5).text())
        2 records, 0 sequences on ort-cpu in fp32: 0 tokens given, 0 computed, 0 padded, 0 passes, 0.00 s
        pair accuracy 75.00% (2 pairs)
        """
        s = self.statistics
        shared = f", {1 - s.computed / s.given:.0%} shared" if s.given else ""
        lines = [
            f"{self.records} records, {s.sequences} sequences on {self.backend} in {self.precision}: "
            f"{s.given} tokens given, {s.computed} computed{shared}, {s.padded} padded, {s.passes} passes, "
            f"{self.seconds:.2f} s"
        ]
        if self.reason:
            lines.append(f"engine {self.backend}, because {self.reason}")
        if self.prefix_cache:
            found = "" if self.prefix_cache.startswith("off") else f": {s.cached} tokens found"
            lines.append(f"prefix cache {self.prefix_cache}{found}")
        if self.pairs:
            lines.append(f"pair accuracy {self.pairs_right / self.pairs:.2%} ({self.pairs} pairs)")
        if self.sets:
            lines.append(f"set accuracy {self.sets_right / self.sets:.2%} ({self.sets} lists of chosen and rejected)")
        for count, what in (
            (self.errors, "records could not be scored"),
            (self.truncated, "records were truncated"),
            *((self.flagged.get(kind, 0), what) for kind, what in SUMMARIES.items()),
        ):
            if count:
                lines.append(f"{count} {what}")
        return "\n".join(lines)


def score_file(bundle: str, files: FileOptions, options: ScoreOptions, advance: Advance | None = None) -> Summary:
    """Score `files.input` with a bundle.

    `advance` is told 0 once the bundle is loaded, then the number of sequences after each pass. Raises InputError for
    a bad record unless `on_error` is "skip", OutputError when results cannot be written, and what loading and reading
    raise. Whatever ends the run, the results that there are by then are kept, and the error says where.
    """
    check_distinct(files.input, files.output)
    with load_model(bundle, files) as model, open_writer(files.output) as writer:
        begin = time.perf_counter()
        with salvaged(writer):
            if advance is not None:
                advance(0)
            records, fields = read_records(files.input), result_fields
            if files.rank is not None:
                records, fields = rankable(records), partial(ranked_fields, options=files.rank)
            summary = score_records(
                model, records, writer, options, on_error=files.on_error, advance=advance, fields=fields
            )
            writer.finish()
    return replace(summary, seconds=time.perf_counter() - begin)


def score_records(
    model: RewardModel,
    records: Iterable[Record],
    writer: RecordWriter,
    options: ScoreOptions,
    *,
    on_error: Literal["stop", "skip"],
    advance: Advance | None = None,
    fields: Fields | None = None,
) -> Summary:
    """Score records and write their results, a window at a time; raises as `score_file` does.

    `fields` makes an output record of a result, `result_fields` unless given.
    """
    summary = Summary(
        backend=model.backend,
        precision=model.precision,
        reason=model.backend_reason,
        prefix_cache=model.prefix_cache,
    )
    source = IterableSource(writable(records, writer))
    with closing(model.stream_windows(source, options, advance)) as windows:
        for window in windows:
            _write(writer, window, on_error, fields or result_fields)
            summary = _added(summary, window)
    return summary


def writable(records: Iterable[Record], writer: RecordWriter) -> Iterator[Record]:
    """The records, with an error in the place of one that has an id which the output cannot hold."""
    for number, request in records:
        record_id = request.record_id if isinstance(request, InputError) else request.id
        refusal = None if record_id is None else writer.refusal(record_id)
        if refusal is None:
            yield number, request
        elif isinstance(request, InputError):  # its own error is the one to know of
            request.record_id = None
            yield number, request
        else:
            yield number, RecordError(f"record {number}: {refusal}")


def rankable(records: Iterable[Record]) -> Iterator[Record]:
    """The records, with an error in the place of one that has nothing to rank.

    >>> from rmruntime.records import parse_record
    >>> [(number, type(found).__name__) for number, found in rankable([(0, parse_record({"text": "Hello"}))])]
    [(0, 'RecordError')]
    """
    for number, request in records:
        if isinstance(request, InputError) or request.documents:
            yield number, request
            continue
        error = RecordError(
            f"record {number}: found nothing to rank, expected query and documents (or prompt and responses)"
        )
        error.record_id = request.id
        yield number, error


def load_model(bundle: str, files: FileOptions) -> RewardModel:
    """The bundle on the engine that the options name."""
    return RewardModel.load(bundle, files.engine)


@contextmanager
def salvaged(writer: RecordWriter) -> Iterator[None]:
    """What was scored is kept, whatever ends the run: a record, the engine, the disk, or the user."""
    try:
        yield
    except BaseException as error:  # of any type: it is raised again
        kept = writer.salvage()
        if kept is None:
            raise
        where = f"what was scored until then is in {kept}"
        if isinstance(error, RewardModelError):
            raise type(error)(f"{error}. {where[0].upper()}{where[1:]}") from error
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(where) from error
        error.add_note(where)
        raise


def _write(writer: RecordWriter, window: ScoredWindow[int], on_error: str, fields: Fields) -> None:
    late: list[tuple[int, InputError]] = []  # known only once the window's other records have their scores
    for (number, request), result in zip(window.entries, window.results, strict=True):
        if isinstance(result, (DeviceLimit, NonFiniteScore)):
            late.append((number, result))  # all that have scores are written first
        elif isinstance(result, InputError) and on_error == "stop":
            prefix = "" if isinstance(request, InputError) else f"record {number}: "  # reading names its own place
            raise type(result)(f"{prefix}{result} (--on-error skip goes on with the others)") from result
        record_id = request.record_id if isinstance(request, InputError) else request.id
        writer.write({"id": number if record_id is None else record_id, **fields(request, result)})
    if late and on_error == "stop":
        number, error = late[0]
        what = f"{len(late)} records could not be computed: record {number}: {error}"
        raise type(error)(f"{what} (--on-error skip goes on with the others)") from error


def result_fields(request: Request | InputError, result: Scored | InputError) -> dict[str, object]:
    """A result as output fields: `score`, `scores` for candidates, `chosen_score`/`rejected_score` for pairs.

    Lists of chosen and rejected answers have `chosen_scores` and `rejected_scores`.

    >>> from rmruntime.records import parse_record
    >>> request = parse_record({"prompt": "2 + 2?", "responses": ["4", "5"]})
    >>> result_fields(request, [Score(value=1.5), Score(value=-0.5)])
    {'scores': [1.5, -0.5]}
    """
    if isinstance(result, InputError):
        return {"error": str(result)}
    if isinstance(result, Score):
        return _fields(result)
    if isinstance(request, Request) and request.kind == "pair":
        named = zip(("chosen", "rejected"), result, strict=True)
        return {f"{name}_{key}": value for name, score in named for key, value in _fields(score).items()}
    if isinstance(request, Request) and request.kind == "sets":
        named_lists = (("chosen", result[: request.chosen]), ("rejected", result[request.chosen :]))
        return {f"{name}_{key}": column for name, scores in named_lists for key, column in _columns(scores).items()}
    return _columns(result)


def ranked_fields(
    request: Request | InputError, result: Scored | InputError, options: RankOptions
) -> dict[str, object]:
    """A result as `results`, a list in the order of the scores, each with its index, fields and document.

    >>> from rmruntime.records import parse_record
    >>> request = parse_record({"query": "2 + 2?", "documents": ["5", {"id": "b", "text": "4"}]})
    >>> scores = [Score(value=-0.5), Score(value=1.5)]
    >>> ranked_fields(request, scores, RankOptions(top=1))
    {'results': [{'index': 1, 'score': 1.5, 'document': {'id': 'b', 'text': '4'}}]}
    >>> ranked_fields(request, scores, RankOptions(top=1, documents=False))
    {'results': [{'index': 1, 'id': 'b', 'score': 1.5}]}
    """
    if isinstance(request, InputError) or isinstance(result, InputError):
        return {"error": str(request if isinstance(request, InputError) else result)}
    assert isinstance(result, list)  # of several documents it always is
    return {"results": [_ranked_entry(found, options) for found in ranked(request.documents, result, options.top)]}


def _ranked_entry(found: RankedDocument, options: RankOptions) -> dict[str, object]:
    document = found.document
    given_id = document.get("id") if isinstance(document, Mapping) and not options.documents else None
    own: dict[str, object] = {"index": found.index} | ({} if given_id is None else {"id": given_id})
    return own | _fields(found.details) | ({"document": document} if options.documents else {})


def _columns(scores: Sequence[Score]) -> dict[str, object]:
    """Every field as a list with one item per score."""
    columns = [_fields(score) for score in scores]
    keys = dict.fromkeys(key for column in columns for key in column)
    return {("scores" if key == "score" else key): [column.get(key) for column in columns] for key in keys}


def _fields(score: Score) -> dict[str, object]:
    fields: dict[str, object] = {"score": score.value}
    optional = {
        "logit": score.logit,
        "rewards": score.rewards,
        "gating": score.gating,
        "step_scores": score.steps,
        "step_logits": score.step_logits,
        "truncated": score.truncated or None,
        "flags": score.flags or None,
    }
    return fields | {key: value for key, value in optional.items() if value is not None}


def _added(summary: Summary, window: ScoredWindow[int]) -> Summary:
    results = window.results
    judged = [
        (request, result)
        for (_, request), result in zip(window.entries, results, strict=True)
        if isinstance(request, Request) and isinstance(result, list)
    ]
    pairs = _rights((result, 1) for request, result in judged if request.kind == "pair")
    sets = _rights((result, request.chosen) for request, result in judged if request.kind == "sets")
    scores = [r if isinstance(r, list) else [r] for r in results if not isinstance(r, InputError)]
    return replace(
        summary,
        records=summary.records + len(window.entries),
        errors=summary.errors + sum(isinstance(r, InputError) for r in results),
        pairs=summary.pairs + len(pairs),
        pairs_right=summary.pairs_right + sum(pairs),
        sets=summary.sets + len(sets),
        sets_right=summary.sets_right + sum(sets),
        truncated=summary.truncated + sum(any(s.truncated for s in group) for group in scores),
        flagged=dict(Counter(summary.flagged) + Counter(kind for group in scores for kind in _kinds(group))),
        statistics=summary.statistics + window.statistics,
    )


def _kinds(scores: Sequence[Score]) -> set[str]:
    """Of the flags of a record's scores."""
    return kinds_of(flag for score in scores for flag in score.flags)


def _rights(judged: Iterable[tuple[list[Score], int]]) -> list[float]:
    """How right each was, of those that have scores; the number with a result is that of its chosen answers."""
    rights = []
    for result, chosen in judged:
        values = [score.value for score in result if score.value is not None]
        if len(values) == len(result):
            rights.append(_right(values[:chosen], values[chosen:]))
    return rights


def _right(chosen: Sequence[float], rejected: Sequence[float]) -> float:
    """1 where every chosen answer is above every rejected one, as RewardBench 2 counts.

    One chosen answer that shares the highest score with some rejected ones has that share of it: of a pair, a half.
    """
    worst, best = min(chosen), max(rejected)
    if worst == best and len(chosen) == 1:
        return 1 / (1 + sum(value == best for value in rejected))
    return float(worst > best)
