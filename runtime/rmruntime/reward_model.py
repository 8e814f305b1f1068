"""The public class: a bundle, its text half and an engine, composed into one thread-safe `score()`."""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Literal, Self

from rmruntime.backends.base import Backend
from rmruntime.batching.prefetch import in_windows
from rmruntime.batching.request_queue import ScoreFuture
from rmruntime.batching.runner import Advance, Statistics
from rmruntime.batching.scoring_loop import Encoded, ScoringLoop
from rmruntime.batching.source import Entry, IterableSource, RequestSource, Tag
from rmruntime.batching.submitter import QUEUE_TOKENS, Submitter
from rmruntime.bundle import Bundle
from rmruntime.bundle.manifest import Manifest
from rmruntime.errors import InputError, OptionError
from rmruntime.executors import DirectExecutor, PassExecutor, load_executor
from rmruntime.option_checks import COUNT, TOKENS, check_value
from rmruntime.options import EngineOptions, Precision, ScoreOptions, format_bytes
from rmruntime.records import Request
from rmruntime.records.call_arguments import check_records, check_texts, numbered_requests, parse_records
from rmruntime.scores import Outcome, OutputProcessor, RankedDocument, Score, Scored, ranked
from rmruntime.sequences import TokenSequence
from rmruntime.sessions.session import Session, append_all, open_session, pairs_of
from rmruntime.sessions.session_scorer import SessionScorer
from rmruntime.sessions.warm_prefix import WarmPrefix, warmed
from rmruntime.text.request_tokenizer import RequestTokenizer


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


class RewardModel:
    """A loaded bundle. `score` may be called from several threads; passes of the engine run one at a time."""

    def __init__(self, bundle: Bundle, backend: Backend | PassExecutor, *, queue_tokens: int = QUEUE_TOKENS) -> None:
        """Use `RewardModel.load`; this constructor takes the parts, for tests and other engines."""
        self._bundle = bundle
        self._executor = backend if isinstance(backend, PassExecutor) else DirectExecutor(backend)
        self._request_tokenizer = RequestTokenizer(bundle.manifest, bundle.folder)
        self._loop = ScoringLoop(bundle, self._executor)
        self._output_processor = OutputProcessor(
            manifest=bundle.manifest, precision=self._executor.precision, join=self._request_tokenizer.join
        )
        self._submitter = Submitter(
            self._loop, self._request_tokenizer.encode_many, self._output_processor.result, queue_tokens
        )
        self._session_scorer = SessionScorer(
            bundle.manifest,
            self._request_tokenizer,
            self._submitter,
            self._output_processor,
            padded=self._executor.graph.layout == "padded",
        )

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
        prefix_cache: int | Literal["auto", "off"] = "off",
        queue_tokens: int = QUEUE_TOKENS,
    ) -> Self:
        """Open and validate a bundle and load its engine: as `engine` says, or as its fields given one by one do.

        `device` is auto, cpu, cuda, cuda:1, or a backend's name; of several engines that a general name allows, the
        fastest here whose weights fit into the free memory is taken (rmruntime.engine_choice). `precision` is auto,
        fp32, bf16 or fp16, where auto never has fewer mantissa bits than the bundle's dtype; `threads` 0 lets the
        engine decide; `check` "full" hashes the weights; `memory_limit` is in bytes; `dialect` names the graph to run
        where the engine reads several.

        `prefix_cache`, bytes or "auto", keeps what was computed, so that what begins with the same tokens in later
        calls computes the rest alone.

        Of a bundle that was exported with stages, several devices ("cuda:0,cuda:1") run one after another, each busy
        with another pass; with `stage_memory`, bytes or "auto", one device runs them in turn, with no more bytes of
        weights loaded than that. `queue_tokens` is how many tokens of submitted records may wait, before `submit`
        raises QueueFull. Raises OptionError, BundleError, BackendError or EngineNotInstalled.
        """
        keywords = EngineOptions(
            device=device,
            precision=precision,
            dialect=dialect,
            check=check,
            threads=threads,
            memory_limit=memory_limit,
            stage_memory=stage_memory,
            prefix_cache=prefix_cache,
        )
        check_value("folder", folder, str | Path)
        check_value("queue_tokens", queue_tokens, int, TOKENS)
        options = _one_of(engine, keywords)
        bundle = Bundle.open(Path(folder), check=options.check)
        return cls(bundle, load_executor(bundle, options), queue_tokens=queue_tokens)

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself."""
        return self._bundle.manifest

    @property
    def tokenizer(self) -> RequestTokenizer:
        """The bundle's tokenizer and chat template, for what is not scored."""
        return self._request_tokenizer

    @property
    def backend(self) -> str:
        """The engine that runs."""
        return self._executor.name

    @property
    def backend_reason(self) -> str:
        """Why that engine was chosen: a clause that follows "because". Empty where the constructor was given one."""
        return self._executor.reason

    @property
    def prefix_cache(self) -> str:
        """The prefix cache in words: "of 2.0 GB", "off, because ..." where one was asked for; empty where none was."""
        if self._executor.cache_bytes:
            return f"of {format_bytes(self._executor.cache_bytes)}"
        return self._executor.cache_note and f"off, because {self._executor.cache_note}"

    @property
    def prefix_cache_bytes(self) -> int:
        """The most bytes of keys and values that the prefix cache keeps; 0 without one."""
        return self._executor.cache_bytes

    @property
    def can_cache_prefixes(self) -> bool:
        """Whether the graph that runs has a form for a prefix cache in the bundle."""
        return self._executor.graph.past is not None

    @property
    def has_prefix_cache(self) -> bool:
        """Whether what is computed is kept for later calls."""
        return self._executor.cache_bytes > 0

    @property
    def precision(self) -> str:
        """The arithmetic that runs: fp32, bf16 or fp16."""
        return self._executor.precision

    @property
    def batch_tokens(self) -> int:
        """How many tokens a pass computes at most, where the options do not say."""
        return self._executor.batch_tokens

    @property
    def statistics(self) -> Statistics:
        """Of all passes since the model was loaded, whoever asked for them."""
        return self._loop.statistics + self._submitter.statistics

    @property
    def waiting_tokens(self) -> int:
        """Tokens of submitted records that have not begun, of which there may be `queue_tokens`."""
        return self._submitter.waiting_tokens

    @property
    def queue_tokens(self) -> int:
        """How many tokens of submitted records may wait."""
        return self._submitter.limit

    def score(self, records: Sequence[Mapping[str, Any]], options: ScoreOptions | None = None) -> list[Scored]:
        """Scores in input order; a pair gives [chosen, rejected], candidates a list, and lists of chosen and rejected
        answers one list, the chosen first.

        `records` are dicts as in the CLI's JSON lines. Raises InputError for the first record that cannot be scored,
        with its index.
        """
        requests = parse_records(check_records(records))
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
        [scores] = self.score([{"prompt": prompt, "responses": check_texts("responses", responses)}], options)
        assert isinstance(scores, list)  # candidates always are
        return scores

    def rank(
        self,
        query: str,
        documents: Sequence[str | Mapping[str, Any]],
        top: int | None = None,
        *,
        instruction: str | None = None,
        options: ScoreOptions | None = None,
    ) -> list[RankedDocument]:
        """The documents by their scores for a query, the best first; the first `top` of them.

        Documents are text, or dicts with "text" and whatever else. Any model ranks: for a reward model the query is the
        prompt and a document a response. Raises InputError as `score` does, OptionError for a `top` below 1.
        """
        check_value("top", top, int | None, COUNT)
        given = check_texts("documents", documents)
        [scores] = self.score([{"query": query, "documents": given, "instruction": instruction}], options)
        assert isinstance(scores, list)  # documents always are
        return ranked(given, scores, top)

    def score_steps(
        self, prompt: str | Sequence[Mapping[str, str]], steps: Sequence[str], options: ScoreOptions | None = None
    ) -> Score:
        """Process rewards: `steps` of the result holds one score a step, `value` their aggregate.

        Raises InputError as `score` does, and for a lone text in place of the steps.
        """
        [score] = self.score([{"prompt": prompt, "steps": check_texts("steps", steps)}], options)
        assert isinstance(score, Score)  # one solution, one score
        return score

    def session(
        self,
        prompt: str | Sequence[Mapping[str, str]],
        steps: Sequence[str] = (),
        options: ScoreOptions | None = None,
    ) -> Session:
        """A solution that grows step by step, for search that is guided by its scores: a context manager.

        Steps that are given here are scored with the session's first call. Whatever its calls return equals what
        `score` returns for the prompt and its steps then. Its passes are shared with other callers, as those of
        `submit` are; a full queue makes it wait, and once the model is drained it is refused. With a prefix cache
        (`load`) only what is new is computed.

        Raises InputError for what cannot be scored, and for a model whose answers cannot be continued: encoders, and
        those that compare answers.
        """
        return open_session(self._session_scorer, prompt, steps, options or ScoreOptions())

    def append_many(self, moves: Iterable[tuple[Session, str | Sequence[str]]]) -> list[list[float] | InputError]:
        """Append to several sessions, such as a beam, in one pass, or in as few as its budget of tokens allows.

        For each session in order what its `append` would return, or the InputError that it would raise, and that
        session stays as it was. Where the engine fails, all do. Raises RecordError for a session that is there twice.
        """
        return append_all(self._session_scorer, pairs_of(moves))

    def warm(self, messages: str | Sequence[Mapping[str, str]]) -> WarmPrefix:
        """Compute what conversations that begin with these messages begin with, such as a system prompt, and keep it in
        the prefix cache until the result, a context manager, is closed.

        Raises OptionError without a prefix cache, or where it is too small; InputError as `session` does.
        """
        return warmed(self._session_scorer, self._loop.cache, self.prefix_cache, messages)

    def submit(
        self,
        record: Mapping[str, Any] | Request,
        options: ScoreOptions | None = None,
        *,
        deadline: float | None = None,
    ) -> ScoreFuture:
        """Have one record scored in passes that all callers share; returns at once, after tokenizing it.

        Whenever the engine is free, it computes what waits, oldest first, and what starts alike together. The future
        has what `score` returns for the record, or raises why there is none: an InputError, a BackendError, a
        BundleError, DeadlineExceeded where it has not begun `deadline` seconds from now, RewardModelError where the
        model is closed before. `cancel()` takes back a record that has not begun. While another thread scores a batch,
        passes alternate. Raises QueueFull, OptionError, and RewardModelError once the model is drained or closed.
        """
        return self._submitter.submit(record, options or ScoreOptions(), deadline)

    async def ascore(
        self,
        record: Mapping[str, Any] | Request,
        options: ScoreOptions | None = None,
        *,
        deadline: float | None = None,
    ) -> Scored:
        """`submit` for event loops: the score, or its error, once it is there; the record is tokenized on a thread.

        Cancelling the task, as `asyncio.wait_for` and `asyncio.timeout` do, takes back a record that has not begun.
        """
        import asyncio

        return await asyncio.wrap_future(self._submitter.submit_later(record, options or ScoreOptions(), deadline))

    def drain(self, timeout: float | None = None) -> bool:
        """Take no more submitted records, and wait until those that were taken are done, `timeout` seconds at most.

        Returns whether they are. Other calls go on as before; `close` afterwards.
        """
        return self._submitter.drain(timeout)

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
        source = IterableSource(numbered_requests(check_records(records)))
        return self._flat(self.stream_windows(source, options or ScoreOptions(), advance))

    def stream_windows(
        self, source: RequestSource[Tag], options: ScoreOptions, advance: Advance | None = None
    ) -> Generator[ScoredWindow[Tag], None, None]:
        """The source's windows, scored, in order: what all scoring of requests stands on.

        The next window is drawn, tokenized and planned while the engine computes this one (ScoringLoop). `advance` and
        errors are those of `stream`.
        """
        check_value("options", options, ScoreOptions)
        encode = partial(self._encode_entries, options=options)
        return self._scored_windows(source.windows(), encode, options, advance)

    def run(self, requests: Sequence[Request], options: ScoreOptions, advance: Advance | None = None) -> Run:
        """Score parsed requests; a request that cannot be scored leaves its InputError in its place.

        `advance` is told the number of sequences after each pass. Prefixes are shared within windows of
        rmruntime.batching.prefetch.RECORDS_AHEAD requests, of which the next is tokenized while the engine runs. Raises
        BackendError when the engine fails.
        """
        return _collected(self.stream_windows(IterableSource(list(enumerate(requests))), options, advance))

    def run_encoded(
        self, requests: Sequence[Request], encoded: Encoded, options: ScoreOptions, advance: Advance | None = None
    ) -> Run:
        """`run` from what `encode` returned for the same requests and options, in one window.

        Raises BundleError where the weights' files are no longer those that were loaded.
        """
        window = list(zip(encoded, requests, strict=True))  # what was tokenized earlier is the tag of its request
        return _collected(self._scored_windows([window], _tags, options, advance))

    def encode(self, requests: Sequence[Request], options: ScoreOptions) -> Encoded:
        """Token sequences of each request, with the positions that the head reads, or the request's InputError."""
        check_value("options", options, ScoreOptions)
        return self._request_tokenizer.encode_many(requests, options)

    def stream_outputs(
        self, sequences: Iterable[TokenSequence], options: ScoreOptions, advance: Advance | None = None
    ) -> Generator[Outcome, None, None]:
        """The engine's raw outputs for each sequence, in order: arrays by name, [P] or [P, labels] each.

        P is the number of positions that the head reads. A sequence that the device cannot compute has a DeviceLimit
        instead. Sequences are read ahead, and errors are raised, as `stream` does.
        """
        check_value("options", options, ScoreOptions)
        return self._outcomes(sequences, options, advance)

    def close(self) -> None:
        """Free the engine; waits for a pass that is running. Scoring afterwards is an error.

        Submitted records that have not begun fail with a RewardModelError; `drain` before it lets them be scored.
        """
        self._submitter.close()
        self._loop.close()

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

    def _outcomes(
        self, sequences: Iterable[TokenSequence], options: ScoreOptions, advance: Advance | None
    ) -> Generator[Outcome, None, None]:
        with closing(self._loop.run(in_windows(sequences), _each_alone, options.max_batch_tokens, advance)) as windows:
            for window in windows:
                for computed in window.computed:
                    assert not isinstance(computed, InputError)  # there was nothing to tokenize
                    yield from (outcome for _, outcome in computed)

    def _scored_windows(
        self,
        windows: Iterable[Sequence[Entry[Tag]] | None],
        encode: Callable[[Sequence[Entry[Tag]]], Encoded],
        options: ScoreOptions,
        advance: Advance | None,
    ) -> Generator[ScoredWindow[Tag], None, None]:
        with closing(self._loop.run(windows, encode, options.max_batch_tokens, advance)) as output_windows:
            for window in output_windows:
                outputs = zip(window.items, window.computed, strict=True)
                results = [
                    self._output_processor.result(request, computed, options) for (_, request), computed in outputs
                ]
                yield ScoredWindow(window.items, results, window.statistics)

    def _encode_entries(self, entries: Sequence[Entry[Any]], options: ScoreOptions) -> Encoded:
        requests = [request for _, request in entries if not isinstance(request, InputError)]
        encoded = iter(self.encode(requests, options))
        return [request if isinstance(request, InputError) else next(encoded) for _, request in entries]


def _tags(entries: Sequence[Entry[Tag]]) -> list[Tag]:
    return [tag for tag, _ in entries]


def _each_alone(sequences: Sequence[TokenSequence]) -> Encoded:
    return [(sequence,) for sequence in sequences]


def _collected(windows: Generator[ScoredWindow[Any], None, None]) -> Run:
    results: list[Scored | InputError] = []
    statistics = Statistics()
    with closing(windows):
        for window in windows:
            results += window.results
            statistics += window.statistics
    return Run(results, statistics)


def _one_of(engine: EngineOptions | None, keywords: EngineOptions) -> EngineOptions:
    """The options that were given. Raises OptionError for both, and for an `engine` that is something else."""
    check_value("engine", engine, EngineOptions | None)
    if engine is not None and keywords != EngineOptions():
        raise OptionError("found engine and keywords of its options, expected one of them: put them into the engine")
    return keywords if engine is None else engine
