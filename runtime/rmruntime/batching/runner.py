"""Runs planned batches: the next is packed while one computes, one that does not fit the device is cut in two."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np

from rmruntime.backends.base import Feeds, Outputs
from rmruntime.batching.batch_plan import BatchPlan
from rmruntime.batching.device_past import key_layout
from rmruntime.batching.packing import PassInputs, pack, row_shape
from rmruntime.batching.padding import pad
from rmruntime.batching.paged_past import paged_past
from rmruntime.batching.past import PassPast, longer, plan_past, without_past
from rmruntime.batching.prefetch import one_ahead
from rmruntime.batching.prefix_cache import CachedPrefix, PrefixCache
from rmruntime.batching.trie import PrefixOrder, TokenTrie
from rmruntime.errors import BackendError, DeviceLimit, DeviceMemoryError, PassTooLarge
from rmruntime.executors.base import PassExecutor
from rmruntime.scores import Outcome
from rmruntime.sequences import TokenSequence

WORTH_PACKING = 32  # tokens that a pass need not compute, for which it is packed again

Advance = Callable[[int], object]


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """`given` tokens of all sequences, `computed` after sharing, in `passes` passes of the engine.

    `cached` counts those that the prefix cache had, each as often as a pass would have computed it.
    `padded` counts what was computed beyond real tokens: query slots of a packed graph's attention rows, or the tokens
    that fill up a padded graph's.
    """

    sequences: int = 0
    given: int = 0
    computed: int = 0
    padded: int = 0
    passes: int = 0
    cached: int = 0

    def __add__(self, other: "Statistics") -> "Statistics":
        return Statistics(
            sequences=self.sequences + other.sequences,
            given=self.given + other.given,
            computed=self.computed + other.computed,
            padded=self.padded + other.padded,
            passes=self.passes + other.passes,
            cached=self.cached + other.cached,
        )


@dataclass(frozen=True)
class Batch:
    """The sequences of one pass: their numbers in the plan, how they share tokens, and whether they are to.

    `cached` are their beginnings that are not computed, None without a cache.
    """

    numbers: Sequence[int]
    sequences: Sequence[TokenSequence]
    prefixes: PrefixOrder | None
    share: bool = True
    cached: Sequence[CachedPrefix] | None = None

    def part(self, places: Sequence[int], *, share: bool) -> "Batch":
        """Some of its sequences."""
        numbers, sequences = [self.numbers[i] for i in places], [self.sequences[i] for i in places]
        return Batch(numbers, sequences, self.prefixes, share, self.cached and [self.cached[i] for i in places])


def planned_batch(sequences: Sequence[TokenSequence], plan: BatchPlan, numbers: Sequence[int]) -> Batch:
    """The pass of a plan of `sequences` that computes those with these numbers."""
    cached = plan.cached and [plan.cached[i] for i in numbers]
    return Batch(numbers, [sequences[i] for i in numbers], plan.prefixes, cached=cached)


@dataclass(frozen=True)
class PreparedPass:
    """A batch with the inputs of its pass; `trie` says who shares what, None for a padded graph.

    `past` is what it need not compute, None where the graph takes no past.
    """

    batch: Batch
    inputs: PassInputs
    trie: TokenTrie | None
    past: PassPast | None = None


@dataclass(frozen=True)
class BegunPass:
    """A submitted pass; its keys and values are in the prefix cache, where there is one, once `future` is done."""

    batch: Batch
    inputs: PassInputs
    trie: TokenTrie | None
    past: PassPast | None
    future: Future[tuple[list[Outcome], Statistics]]


class BatchRunner:
    """The passes of one model: `run` for many at a time, or `prepare`, `begin` and `finish` for one after another."""

    def __init__(
        self,
        executor: PassExecutor,
        turn: Callable[[], AbstractContextManager[object]] = nullcontext,
        cache: PrefixCache | None = None,
        layers: int = 0,
    ) -> None:
        """`turn` is entered around every submission, by those who share the engine with others.

        `cache`, which several runners may share, is there where the graph takes a past, of its `layers` layers.
        """
        self._executor, self._turn = executor, turn
        self._rows = row_shape(executor.graph)
        self._cache = cache
        self._layout = None if cache is None else key_layout(executor, layers)
        self._pool = executor.page_pool
        self._lock, self._total = threading.Lock(), Statistics()

    @property
    def statistics(self) -> Statistics:
        """All passes that were finished so far."""
        return self._total

    def run(
        self, sequences: Sequence[TokenSequence], plan: BatchPlan, advance: Advance | None = None
    ) -> tuple[list[Outcome], Statistics]:
        """The engine's outputs for each sequence, in their order, in the passes of `plan`.

        A sequence whose pass does not fit into the device, nor a smaller one, has a DeviceLimit instead. `advance` is
        told the number of sequences after each batch. Raises BackendError when the engine fails otherwise.
        """
        found: dict[int, Outcome] = {}
        statistics = Statistics()
        batches = [planned_batch(sequences, plan, numbers) for numbers in plan.batches]
        with one_ahead(self.prepare, batches) as prepared:
            for begun in self._in_order(prepared):
                outcomes, one = self.finish(begun)
                found |= dict(zip(begun.batch.numbers, outcomes, strict=True))
                statistics += one
                if advance is not None:
                    advance(len(begun.batch.numbers))
        return [found[i] for i in range(len(sequences))], statistics

    def close(self) -> None:
        """Free the engine; waits for a pass that is running. Scoring afterwards is an error."""
        self._executor.close()
        if self._cache is not None:
            self._cache.clear()

    def prepare(self, batch: Batch) -> PreparedPass:
        """Plan the inputs of a pass; needs no engine, so it may be done while one computes."""
        if batch.prefixes is None:
            return PreparedPass(batch, pad(batch.sequences, self._executor.graph.pad_id), None)
        trie = batch.prefixes.trie(batch.numbers, share=batch.share)
        past = self._past(batch, trie)
        placement = None if past is None else past.placement
        return PreparedPass(batch, pack(batch.sequences, self._rows, trie, placement), trie, past)

    def begin(self, wave: Sequence[PreparedPass]) -> list[BegunPass]:
        """Submit passes together, for callers that have the engine's turn. Some executors compute them here.

        Raises RewardModelError once the engine is closed.
        """
        if self._pool is not None:  # one may wait for the pages of those before it
            return [begun for one in wave for begun in self._begin([self._renewed(one)])]
        return self._begin([self._renewed(one) for one in wave])

    def _begin(self, wave: Sequence[PreparedPass]) -> list[BegunPass]:
        try:
            feeds = [self._feeds(one) for one in wave]
            futures = iter(self._executor.submit([one for one in feeds if not isinstance(one, BackendError)]))
        except BaseException:
            for one in wave:
                _release(one.past)
            raise
        return [
            self._begun(one, _failed(given) if isinstance(given, BackendError) else next(futures))
            for one, given in zip(wave, feeds, strict=True)
        ]

    def finish(self, begun: BegunPass) -> tuple[list[Outcome], Statistics]:
        """Wait for a pass: what each of its sequences has, where what is not finite is computed again apart.

        Raises BackendError when the engine fails.
        """
        outcomes, statistics = self._sound(begun)
        with self._lock:
            self._total += statistics
        return outcomes, statistics

    def _past(self, batch: Batch, trie: TokenTrie) -> PassPast | None:
        """What is cached of a batch by now, or was when it was planned."""
        if self._cache is None:
            return None
        past = self._planned_past(batch, trie, self._cache)
        return past if self._pool is None else paged_past(past, self._pool, self._cache.forget_oldest)

    def _planned_past(self, batch: Batch, trie: TokenTrie, cache: PrefixCache) -> PassPast:
        if not batch.share:
            return without_past(batch.sequences, trie)
        found = cache.match([s.ids for s in batch.sequences])
        found = found if batch.cached is None or self._executor.key_memories else longer(found, batch.cached)
        return plan_past(batch.sequences, trie, found, cache)

    def _in_order(self, prepared: Iterable[PreparedPass]) -> Iterator[BegunPass]:
        """Every pass once it is submitted, with as many submitted after it as keep the executor busy."""
        begun: deque[list[BegunPass]] = deque()
        for wave in self._waves(prepared):
            begun.append(self._submit(wave))
            if len(begun) > self._executor.ahead:
                yield from begun.popleft()
        for one in begun:
            yield from one

    def _waves(self, prepared: Iterable[PreparedPass]) -> Iterator[list[PreparedPass]]:
        """Passes that are submitted together."""
        wave: list[PreparedPass] = []
        tokens = 0
        for one in prepared:
            wave.append(one)
            tokens += one.inputs.computed
            if tokens >= self._executor.wave_tokens:
                yield wave
                wave, tokens = [], 0
        if wave:
            yield wave

    def _submit(self, wave: Sequence[PreparedPass]) -> list[BegunPass]:
        with self._turn():
            return self.begin(wave)

    def _renewed(self, prepared: PreparedPass) -> PreparedPass:
        """The same pass, packed again where the passes that ran meanwhile brought much of what it would compute."""
        past = prepared.past
        if past is None or not past.kept or self._cache is None:
            return prepared
        found = self._cache.match([s.ids for s in prepared.batch.sequences])
        if past.gained(found) < WORTH_PACKING:
            return prepared
        return self.prepare(prepared.batch)

    def _feeds(self, prepared: PreparedPass) -> Feeds | BackendError:
        """The past is put together here, when its pass is next: it may be large, or too large for the device."""
        if prepared.past is None or self._layout is None:
            return prepared.inputs.feeds
        try:
            return prepared.past.completed(prepared.inputs.feeds, self._layout)
        except (PassTooLarge, DeviceMemoryError) as error:
            return error

    def _begun(self, prepared: PreparedPass, outputs: Future[Outputs]) -> BegunPass:
        begun = BegunPass(prepared.batch, prepared.inputs, prepared.trie, prepared.past, Future())
        outputs.add_done_callback(lambda done: self._settle(begun, done))
        return begun

    def _settle(self, begun: BegunPass, outputs: Future[Outputs]) -> None:
        """On the thread that computed: so the next pass that begins there finds what this one brought."""
        try:
            found = self._kept(begun, outputs.result())
        except BaseException as error:  # of any type: `finish` raises it
            _release(begun.past)
            begun.future.set_exception(error)
        else:
            _release(begun.past)
            begun.future.set_result(found)

    def _kept(self, begun: BegunPass, outputs: Outputs) -> tuple[list[Outcome], Statistics]:
        """The outcomes; keys and values of what was computed go to the cache."""
        if begun.past is None or self._cache is None or self._layout is None:
            return _read(begun, outputs)
        outcomes, statistics = _read(begun, {n: v for n, v in outputs.items() if n not in self._layout.outputs})
        begun.past.keep(self._cache, self._layout, outputs, [_finite(outcome) for outcome in outcomes])
        return outcomes, statistics

    def _sound(self, begun: BegunPass) -> tuple[list[Outcome], Statistics]:
        """The outcomes of a batch, where those that are not finite are computed again apart.

        One sequence's NaN reaches those that share tokens with it: attention computes a token's masked keys too, and
        0 * NaN is NaN. Apart, each has its own value.
        """
        outcomes, statistics = self._outcomes(begun)
        spoiled = [i for i, outcome in enumerate(outcomes) if not _finite(outcome)]
        if not spoiled or len(outcomes) == 1 or begun.batch.prefixes is None:
            return outcomes, statistics
        lengths = [len(begun.batch.sequences[i].ids) for i in spoiled]
        for group in _groups(lengths, spoiled, begun.inputs.computed):
            [again] = self._submit([self.prepare(begun.batch.part(group, share=False))])
            found, one = self._outcomes(again)
            statistics += replace(one, sequences=0, given=0)
            for i, outcome in zip(group, found, strict=True):
                outcomes[i] = outcome
        return outcomes, statistics

    def _outcomes(self, begun: BegunPass, *, retry: bool = True) -> tuple[list[Outcome], Statistics]:
        """The outcomes of one submitted batch, of one pass, or of more where the device does not take it."""
        batch, sequences = begun.batch, begun.batch.sequences
        try:
            return begun.future.result()
        except PassTooLarge as error:  # of known limits: halves are tried until they fit
            problem: Exception = error
            again = True
        except DeviceMemoryError as error:  # once: what fits then is not known
            problem = error
            again, retry = retry, False
        if not again or len(sequences) == 1:
            return [_limit(problem, sequences, begun.inputs) for _ in sequences], Statistics()
        outcomes: list[Outcome] = []
        statistics = Statistics()
        middle = len(sequences) // 2
        halves = (range(middle), range(middle, len(sequences)))
        prepared = [self.prepare(batch.part(half, share=batch.share)) for half in halves]
        for half in self._submit(prepared):
            found, one = self._outcomes(half, retry=retry)
            outcomes += found
            statistics += one
        return outcomes, statistics


def _read(begun: BegunPass, outputs: Outputs) -> tuple[list[Outcome], Statistics]:
    """The rows of each sequence."""
    inputs, sequences = begun.inputs, len(begun.batch.sequences)
    ends = zip(inputs.reads, accumulate(inputs.reads), strict=True)
    arrays: list[Outcome] = [{name: v[end - count : end] for name, v in outputs.items()} for count, end in ends]
    return arrays, Statistics(
        sequences=sequences,
        given=inputs.given,
        computed=inputs.computed,
        padded=inputs.padded,
        passes=1,
        cached=inputs.cached,
    )


def _release(past: PassPast | None) -> None:
    if past is not None:
        past.release()


def _failed(error: Exception) -> Future[Outputs]:
    future: Future[Outputs] = Future()
    future.set_exception(error)
    return future


def _finite(outcome: Outcome) -> bool:
    return isinstance(outcome, DeviceLimit) or all(bool(np.isfinite(values).all()) for values in outcome.values())


def _groups(lengths: Sequence[int], indices: Sequence[int], most: int) -> list[list[int]]:
    """`indices`, of sequences of those lengths, in groups of at most `most` tokens or of one sequence."""
    groups: list[list[int]] = []
    tokens_left = 0
    for index, length in zip(indices, lengths, strict=True):
        if length > tokens_left:
            groups.append([])
            tokens_left = most
        groups[-1].append(index)
        tokens_left -= length
    return groups


def _limit(problem: Exception, sequences: Sequence[TokenSequence], inputs: PassInputs) -> DeviceLimit:
    if len(sequences) == 1:
        what, way = f"of one sequence of {inputs.given}", "shorten it with --max-length and --truncate"
    else:
        longest = max(len(s.ids) for s in sequences)
        what, way = f"of {len(sequences)} sequences of up to {longest}", "lower --max-batch-tokens"
    return DeviceLimit(f"a pass of {inputs.computed} tokens, {what}, does not fit into the device ({problem}); {way}")
