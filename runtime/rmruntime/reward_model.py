"""The public class: a bundle, its text half and an engine, composed into one thread-safe `score()`."""

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from rmruntime.backends.base import Backend, BackendOptions, Precision
from rmruntime.batching.batch_plan import BatchPlan, plan_batches, plan_padded_batches
from rmruntime.batching.prefetch import cut_windows, one_ahead
from rmruntime.batching.runner import Advance, Outcome, Passes, Statistics
from rmruntime.batching.trie import PrefixOrder
from rmruntime.bundle import Bundle
from rmruntime.bundle.manifest import Manifest
from rmruntime.errors import DeviceLimit, InputError, NonFiniteScore, RecordError
from rmruntime.executors import DirectExecutor, PassExecutor, load_executor
from rmruntime.option_checks import check_value
from rmruntime.options import ScoreOptions
from rmruntime.records import Request, parse_record
from rmruntime.scores import Score, score_from_outputs, score_from_partials
from rmruntime.sequences import TokenSequence
from rmruntime.text.request_tokenizer import Encoder

Scored = Score | list[Score]
Encoded = list[tuple[TokenSequence, ...] | InputError]


@dataclass(frozen=True)
class Run:
    """Results in the order of the requests: a Score, a list for pairs and candidates, or the error of a bad record."""

    results: list[Scored | InputError]
    statistics: Statistics


class RewardModel:
    """A loaded bundle. `score` may be called from several threads; passes of the engine run one at a time."""

    def __init__(self, bundle: Bundle, backend: Backend | PassExecutor) -> None:
        """Use `RewardModel.load`; this constructor takes the parts, for tests and other engines."""
        self._bundle = bundle
        self._executor = backend if isinstance(backend, PassExecutor) else DirectExecutor(backend)
        self._encoder = Encoder(bundle.manifest, bundle.folder)
        self._passes = Passes(self._executor)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        device: str = "auto",
        precision: Precision = "auto",
        threads: int = 0,
        check: Literal["fast", "full"] = "fast",
        memory_limit: int | None = None,
        dialect: str | None = None,
        stage_memory: int | Literal["auto"] | None = None,
    ) -> Self:
        """Open and validate a bundle and load its engine.

        `device` is auto, cpu, cuda, cuda:1, or a backend's name; of several engines that a general name allows, the
        fastest here whose weights fit into the free memory is taken (rmruntime.engine_choice). `precision` is auto,
        fp32, bf16 or fp16, where auto never has fewer mantissa bits than the bundle's dtype; `threads` 0 lets the
        engine decide; `check` "full" hashes the weights; `memory_limit` is in bytes; `dialect` names the graph to run
        where the engine reads several.

        Of a bundle that was exported with stages, several devices ("cuda:0,cuda:1") run one after another, each busy
        with another pass; with `stage_memory`, bytes or "auto", one device runs them in turn, with no more bytes of
        weights loaded than that. Raises OptionError, BundleError, BackendError or EngineNotInstalled.
        """
        options = BackendOptions(
            device=device,
            precision=precision,
            dialect=dialect,
            check=check,
            threads=threads,
            memory_limit=memory_limit,
            stage_memory=stage_memory,
        )
        check_value("folder", folder, str | Path)
        bundle = Bundle.open(Path(folder), check=check)
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

    def run(self, requests: Sequence[Request], options: ScoreOptions, advance: Advance | None = None) -> Run:
        """Score parsed requests; a request that cannot be scored leaves its InputError in its place.

        `advance` is told the number of sequences after each pass. Prefixes are shared within windows of
        rmruntime.batching.prefetch.WINDOW requests, of which the next is tokenized while the engine runs. Raises
        BackendError when the engine fails.
        """
        parts = list(cut_windows(requests))
        if len(parts) <= 1:
            return self.run_encoded(requests, self.encode(requests, options), options, advance)
        results: list[Scored | InputError] = []
        statistics = Statistics()
        with one_ahead(lambda part: self.encode(part, options), parts) as ahead:
            for part, encoded in zip(parts, ahead, strict=True):
                run = self.run_encoded(part, encoded, options, advance)
                results += run.results
                statistics += run.statistics
        return Run(results, statistics)

    def run_encoded(
        self, requests: Sequence[Request], encoded: Encoded, options: ScoreOptions, advance: Advance | None = None
    ) -> Run:
        """`run` from what `encode` gave for the same requests and options.

        Raises BundleError where the weights' files are no longer those that were loaded.
        """
        self._bundle.check_unchanged()
        flat = [s for sequences in encoded if not isinstance(sequences, InputError) for s in sequences]
        outcomes, statistics = self.outputs(flat, options, advance)
        self._bundle.check_unchanged()  # nor were they changed meanwhile
        pairs = iter(zip(flat, outcomes, strict=True))
        results: list[Scored | InputError] = []
        for request, sequences in zip(requests, encoded, strict=True):
            if isinstance(sequences, InputError):
                results.append(sequences)
            else:
                results.append(self._result(request, [next(pairs) for _ in sequences], options))
        return Run(results, statistics)

    def encode(self, requests: Sequence[Request], options: ScoreOptions) -> Encoded:
        """Token sequences of each request, with the positions that the head reads."""
        check_value("options", options, ScoreOptions)
        return self._encoder.encode_many(requests, options)

    def outputs(
        self, sequences: Sequence[TokenSequence], options: ScoreOptions, advance: Advance | None = None
    ) -> tuple[list[Outcome], Statistics]:
        """The engine's raw outputs for each sequence, [reads] or [reads, labels] each, in input order.

        A sequence that the device cannot compute has a DeviceLimit instead.
        """
        return self._passes.run(sequences, self._plan(sequences, options), advance)

    def close(self) -> None:
        """Free the engine; waits for a pass that is running. Scoring afterwards is an error."""
        self._passes.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

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
        return _joined(request, self._encoder.join(request, scores), options)


def _listed(name: str, texts: object) -> list[Any]:
    """The texts of an argument in their order. Raises RecordError for a lone text, and for what has no order."""
    if isinstance(texts, Iterable) and not isinstance(texts, (str, bytes, bytearray, Mapping, Set)):
        return list(texts)
    raise RecordError(f"{name}: found {type(texts).__name__}, expected a list of strings: put a lone one into one")


def _several(records: object) -> list[Any]:
    """The records of a call. Raises RecordError for one record, or a text, in place of several."""
    if isinstance(records, Iterable) and not isinstance(records, (str, bytes, Mapping)):
        return list(records)
    raise RecordError(
        f"records: found {type(records).__name__}, expected a list of records; put a lone one into a list"
    )


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
