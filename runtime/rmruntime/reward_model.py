"""The public class: a bundle, its text half and an engine, composed into one thread-safe `score()`."""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Literal, Self

from rmruntime.backends.base import Backend
from rmruntime.batching.batch_plan import BatchPlan, plan_batches, plan_padded_batches
from rmruntime.batching.prefetch import one_ahead
from rmruntime.batching.runner import Advance, BatchRunner, Outcome, Statistics
from rmruntime.batching.source import Entry, IterableSource, RequestSource, Tag
from rmruntime.batching.trie import PrefixOrder
from rmruntime.bundle import Bundle
from rmruntime.bundle.manifest import Manifest
from rmruntime.errors import DeviceLimit, InputError, NonFiniteScore, OptionError, RecordError
from rmruntime.executors import DirectExecutor, PassExecutor, load_executor
from rmruntime.option_checks import check_value
from rmruntime.options import EngineOptions, Precision, ScoreOptions
from rmruntime.records import Request, parse_record
from rmruntime.scores import Score, score_from_outputs, score_from_partials
from rmruntime.sequences import TokenSequence
from rmruntime.text.request_tokenizer import RequestTokenizer

Scored = Score | list[Score]
Encoded = list[tuple[TokenSequence, ...] | InputError]


@dataclass(frozen=True)
class Run:
    """Results in the order of the requests: a Score, a list for pairs and candidates, or the error of a bad record."""

    results: list[Scored | InputError]
    statistics: Statistics


@dataclass(frozen=True)
class ScoredWindow(Generic[Tag]):
    """Entries of a source that were scored together, and the result of each: a score, or why there is none."""

    entries: Sequence[Entry[Tag]]
    results: list[Scored | InputError]
    statistics: Statistics


@dataclass(frozen=True)
class _Planned:
    """Requests that are ready to run: what `RewardModel.encode` gave for each, and the passes of all sequences."""

    requests: Sequence[Request]
    encoded: Encoded
    sequences: Sequence[TokenSequence]
    plan: BatchPlan


class RewardModel:
    """A loaded bundle. `score` may be called from several threads; passes of the engine run one at a time."""

    def __init__(self, bundle: Bundle, backend: Backend | PassExecutor) -> None:
        """Use `RewardModel.load`; this constructor takes the parts, for tests and other engines."""
        self._bundle = bundle
        self._executor = backend if isinstance(backend, PassExecutor) else DirectExecutor(backend)
        self._request_tokenizer = RequestTokenizer(bundle.manifest, bundle.folder)
        self._runner = BatchRunner(self._executor)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        engine: EngineOptions | None = None,
        *,
        device: str = "auto",
        precision: Precision = "auto",
        threads: int = 0,
        check: Literal["fast", "full"] = "fast",
        memory_limit: int | None = None,
        dialect: str | None = None,
        stage_memory: int | Literal["auto"] | None = None,
    ) -> Self:
        """Open and validate a bundle and load its engine: as `engine` says, or as its fields given one by one do.

        `device` is auto, cpu, cuda, cuda:1, or a backend's name; of several engines that a general name allows, the
        fastest here whose weights fit into the free memory is taken (rmruntime.engine_choice). `precision` is auto,
        fp32, bf16 or fp16, where auto never has fewer mantissa bits than the bundle's dtype; `threads` 0 lets the
        engine decide; `check` "full" hashes the weights; `memory_limit` is in bytes; `dialect` names the graph to run
        where the engine reads several.

        Of a bundle that was exported with stages, several devices ("cuda:0,cuda:1") run one after another, each busy
        with another pass; with `stage_memory`, bytes or "auto", one device runs them in turn, with no more bytes of
        weights loaded than that. Raises OptionError, BundleError, BackendError or EngineNotInstalled.
        """
        keywords = EngineOptions(
            device=device,
            precision=precision,
            dialect=dialect,
            check=check,
            threads=threads,
            memory_limit=memory_limit,
            stage_memory=stage_memory,
        )
        check_value("folder", folder, str | Path)
        options = _one_of(engine, keywords)
        bundle = Bundle.open(Path(folder), check=options.check)
        return cls(bundle, load_executor(bundle, options))

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself."""
        return self._bundle.manifest

    @property
    def backend(self) -> str:
        """The engine that runs."""
        return self._executor.name

    @property
    def backend_reason(self) -> str:
        """Why that engine was chosen: a clause that follows "because". Empty where the constructor was given one."""
        return self._executor.reason

    @property
    def precision(self) -> str:
        """The arithmetic that runs: fp32, bf16 or fp16."""
        return self._executor.precision

    @property
    def batch_tokens(self) -> int:
        """How many tokens a pass computes at most, where the options do not say."""
        return self._executor.batch_tokens

    def score(self, records: Sequence[Mapping[str, Any]], options: ScoreOptions | None = None) -> list[Scored]:
        """Scores in input order; a pair gives [chosen, rejected], candidates a list, and lists of chosen and rejected
        answers one list, the chosen first.

        `records` are dicts as in the CLI's JSON lines. Raises InputError for the first record that cannot be scored,
        with its index.
        """
        requests = [_parsed(index, record) for index, record in enumerate(_several(records))]
        scores: list[Scored] = []
        for index, result in enumerate(self.run(requests, options or ScoreOptions()).results):
            if isinstance(result, InputError):
                raise type(result)(f"record {index}: {result}") from result
            scores.append(result)
        return scores

    def score_candidates(
        self, prompt: str | Sequence[Mapping[str, str]], responses: Sequence[str], options: ScoreOptions | None = None
    ) -> list[Score]:
        """Scores of several responses to one prompt, whose tokens are computed once.

        Raises InputError as `score` does, and for a lone text in place of the responses.
        """
        [scores] = self.score([{"prompt": prompt, "responses": _listed("responses", responses)}], options)
        assert isinstance(scores, list)  # candidates always are
        return scores

    def score_steps(
        self, prompt: str | Sequence[Mapping[str, str]], steps: Sequence[str], options: ScoreOptions | None = None
    ) -> Score:
        """Process rewards: `steps` of the result holds one score a step, `value` their aggregate.

        Raises InputError as `score` does, and for a lone text in place of the steps.
        """
        [score] = self.score([{"prompt": prompt, "steps": _listed("steps", steps)}], options)
        assert isinstance(score, Score)  # one solution, one score
        return score

    def stream(
        self,
        records: Iterable[Mapping[str, Any] | Request],
        options: ScoreOptions | None = None,
        advance: Advance | None = None,
    ) -> Generator[Scored | InputError, None, None]:
        """Results in input order, as `score` gives them; a record that cannot be scored has its InputError instead.

        `records`, which may be endless, are read at most two windows ahead (rmruntime.batching.prefetch.RECORDS_AHEAD
        each): one is tokenized and planned while the engine computes the other. `advance` is told the number of
        sequences after each pass. Closing the iterator, or an error of the engine or of `records`, ends the work that
        was begun.
        Raises RecordError for a lone record in place of several, OptionError and BundleError; BackendError when the
        engine fails.
        """
        source = IterableSource(_entries(_several(records)))
        return self._flat(self.stream_windows(source, options or ScoreOptions(), advance))

    def stream_windows(
        self, source: RequestSource[Tag], options: ScoreOptions, advance: Advance | None = None
    ) -> Generator[ScoredWindow[Tag], None, None]:
        """The loop that all scoring of requests stands on: the source's windows, scored, in order.

        The next window is drawn, tokenized and planned while the engine computes this one, and of its passes the next
        is packed while one computes. `advance` and errors are those of `stream`.
        """
        check_value("options", options, ScoreOptions)
        return self._scored_windows(source, options, advance)

    def run(self, requests: Sequence[Request], options: ScoreOptions, advance: Advance | None = None) -> Run:
        """Score parsed requests; a request that cannot be scored leaves its InputError in its place.

        `advance` is told the number of sequences after each pass. Prefixes are shared within windows of
        rmruntime.batching.prefetch.RECORDS_AHEAD requests, of which the next is tokenized while the engine runs. Raises
        BackendError when the engine fails.
        """
        results: list[Scored | InputError] = []
        statistics = Statistics()
        with closing(self.stream_windows(IterableSource(list(enumerate(requests))), options, advance)) as windows:
            for window in windows:
                results += window.results
                statistics += window.statistics
        return Run(results, statistics)

    def run_encoded(
        self, requests: Sequence[Request], encoded: Encoded, options: ScoreOptions, advance: Advance | None = None
    ) -> Run:
        """`run` from what `encode` gave for the same requests and options, in one window.

        Raises BundleError where the weights' files are no longer those that were loaded.
        """
        return self._run_planned(self._planned(requests, encoded, options), options, advance)

    def encode(self, requests: Sequence[Request], options: ScoreOptions) -> Encoded:
        """Token sequences of each request, with the positions that the head reads."""
        check_value("options", options, ScoreOptions)
        return self._request_tokenizer.encode_many(requests, options)

    def outputs(
        self, sequences: Sequence[TokenSequence], options: ScoreOptions, advance: Advance | None = None
    ) -> tuple[list[Outcome], Statistics]:
        """The engine's raw outputs for each sequence, [reads] or [reads, labels] each, in input order.

        A sequence that the device cannot compute has a DeviceLimit instead.
        """
        return self._runner.run(sequences, self._plan(sequences, options), advance)

    def close(self) -> None:
        """Free the engine; waits for a pass that is running. Scoring afterwards is an error."""
        self._runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _flat(self, windows: Generator[ScoredWindow[Any], None, None]) -> Generator[Scored | InputError, None, None]:
        with closing(windows):
            for window in windows:
                yield from window.results

    def _scored_windows(
        self, source: RequestSource[Tag], options: ScoreOptions, advance: Advance | None
    ) -> Generator[ScoredWindow[Tag], None, None]:
        def prepared(entries: Sequence[Entry[Tag]]) -> tuple[Sequence[Entry[Tag]], _Planned]:
            requests = [request for _, request in entries if not isinstance(request, InputError)]
            return entries, self._planned(requests, self.encode(requests, options), options)

        with one_ahead(prepared, source.windows()) as ahead:
            for entries, planned in ahead:
                run = self._run_planned(planned, options, advance)
                scored = iter(run.results)
                results = [request if isinstance(request, InputError) else next(scored) for _, request in entries]
                yield ScoredWindow(entries, results, run.statistics)

    def _planned(self, requests: Sequence[Request], encoded: Encoded, options: ScoreOptions) -> _Planned:
        flat = [s for sequences in encoded if not isinstance(sequences, InputError) for s in sequences]
        return _Planned(requests, encoded, flat, self._plan(flat, options))

    def _run_planned(self, planned: _Planned, options: ScoreOptions, advance: Advance | None) -> Run:
        self._bundle.check_unchanged()
        outcomes, statistics = self._runner.run(planned.sequences, planned.plan, advance)
        self._bundle.check_unchanged()  # nor were they changed meanwhile
        pairs = iter(zip(planned.sequences, outcomes, strict=True))
        results: list[Scored | InputError] = []
        for request, sequences in zip(planned.requests, planned.encoded, strict=True):
            if isinstance(sequences, InputError):
                results.append(sequences)
            else:
                results.append(self._result(request, [next(pairs) for _ in sequences], options))
        return Run(results, statistics)

    def _plan(self, sequences: Sequence[TokenSequence], options: ScoreOptions) -> BatchPlan:
        budget = options.max_batch_tokens or self.batch_tokens
        if not sequences:
            return BatchPlan(batches=())
        if self._executor.graph.layout == "padded":
            return BatchPlan(batches=plan_padded_batches([len(s.ids) for s in sequences], budget))
        backbone = self.manifest.backbone
        rope_class = backbone.rope_class if backbone.rope_length is not None else None
        ids = [s.ids for s in sequences]
        prefixes = PrefixOrder(ids)
        return BatchPlan(batches=plan_batches(ids, budget, rope_class, prefixes), prefixes=prefixes)

    def _result(
        self, request: Request, pairs: Sequence[tuple[TokenSequence, Outcome]], options: ScoreOptions
    ) -> Scored | InputError:
        scores: list[Score] = []
        for sequence, outcome in pairs:
            if isinstance(outcome, DeviceLimit):
                return outcome
            try:
                scores.append(score_from_outputs(self.manifest, sequence, outcome, options.aggregate, self.precision))
            except NonFiniteScore as error:
                return error
        return _joined(request, self._request_tokenizer.join(request, scores), options)


def _one_of(engine: EngineOptions | None, keywords: EngineOptions) -> EngineOptions:
    """The options that were given. Raises OptionError for both, and for an `engine` that is something else."""
    check_value("engine", engine, EngineOptions | None)
    if engine is not None and keywords != EngineOptions():
        raise OptionError("found engine and keywords of its options, expected one of them: put them into the engine")
    return keywords if engine is None else engine


def _listed(name: str, texts: object) -> list[Any]:
    """The texts of an argument in their order. Raises RecordError for a lone text, and for what has no order."""
    if isinstance(texts, Iterable) and not isinstance(texts, (str, bytes, bytearray, Mapping, Set)):
        return list(texts)
    raise RecordError(f"{name}: found {type(texts).__name__}, expected a list of strings: put a lone one into one")


def _several(records: object) -> Iterable[Any]:
    """The records of a call. Raises RecordError for one record, or a text, in place of several."""
    if isinstance(records, Iterable) and not isinstance(records, (str, bytes, Mapping)):
        return records
    raise RecordError(
        f"records: found {type(records).__name__}, expected a list of records; put a lone one into a list"
    )


def _entries(records: Iterable[Mapping[str, Any] | Request]) -> Iterator[Entry[int]]:
    """Parsed as they are drawn; the error of a record that is none takes its place."""
    for index, record in enumerate(records):
        request: Request | InputError
        try:
            request = record if isinstance(record, Request) else parse_record(record)
        except InputError as error:
            request = error
        yield index, request


def _parsed(index: int, record: Mapping[str, Any]) -> Request:
    try:
        return parse_record(record)
    except InputError as error:
        raise type(error)(f"record {index}: {error}") from error


_JOIN: dict[str, Callable[[list[Score], ScoreOptions], Scored]] = {
    "single": lambda scores, options: scores[0],
    "pair": lambda scores, options: scores,
    "sets": lambda scores, options: scores,
    "candidates": lambda scores, options: scores,
    "steps": lambda scores, options: (
        scores[0] if scores[0].steps is not None else score_from_partials(scores, options.aggregate)
    ),
}


def _joined(request: Request, scores: list[Score], options: ScoreOptions) -> Scored:
    return _JOIN[request.kind](scores, options)
