"""The one loop under all scoring: windows of items are tokenized, planned and computed, the next while one is computed.

It returns raw outputs of the engine. What its items are is the caller's: requests of a source with their tags, requests
that were tokenized earlier, or token sequences alone; `encode` makes token sequences of a window of them.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Generic, TypeVar

from rmruntime.batching.batch_plan import BatchPlan, PageLimit, plan_batches, plan_padded_batches
from rmruntime.batching.engine_turns import EngineTurns
from rmruntime.batching.paged_past import page_ends
from rmruntime.batching.prefetch import one_ahead
from rmruntime.batching.prefix_cache import CachedPrefix, PrefixCache
from rmruntime.batching.runner import Advance, BatchRunner, Statistics
from rmruntime.batching.trie import PrefixOrder
from rmruntime.bundle import Bundle
from rmruntime.errors import InputError
from rmruntime.executors import PassExecutor
from rmruntime.scores import Outcome
from rmruntime.sequences import TokenSequence

Item = TypeVar("Item")
Encoded = list[tuple[TokenSequence, ...] | InputError]  # for each item its token sequences, or why there are none
Computed = list[tuple[TokenSequence, Outcome]]  # the token sequences of one item, and the outputs of each


@dataclass(frozen=True)
class OutputWindow(Generic[Item]):
    """Items that were computed together, and for each its sequences with their outputs, or why there are none."""

    items: Sequence[Item]
    computed: list[Computed | InputError]
    statistics: Statistics


@dataclass(frozen=True)
class _PlannedWindow(Generic[Item]):
    """A window that is ready to run: the sequences of its items, the same in one list, and their passes."""

    items: Sequence[Item]
    encoded: Encoded
    sequences: Sequence[TokenSequence]
    plan: BatchPlan


class ScoringLoop:
    """The passes of one bundle on its engine. Several threads may run loops; passes run one at a time."""

    def __init__(self, bundle: Bundle, executor: PassExecutor) -> None:
        self.bundle, self.executor = bundle, executor
        self.turns = EngineTurns()
        backbone = bundle.manifest.backbone
        self._rope_class = backbone.rope_class if backbone.rope_length is not None else None
        self._share = executor.graph.causal
        self._cache = PrefixCache(executor.cache_bytes, self._rope_class) if executor.graph.takes_past else None
        self._runner = self.runner(self.turns.of_batches)

    @property
    def cache(self) -> PrefixCache | None:
        """What all passes share, where there is one."""
        return self._cache

    @property
    def statistics(self) -> Statistics:
        """The passes of all runs so far."""
        return self._runner.statistics

    def runner(self, turn: Callable[[], AbstractContextManager[object]]) -> BatchRunner:
        """One whose passes use the engine, in turns of that kind, and the prefix cache, as all others do."""
        return BatchRunner(self.executor, turn, self._cache, self.bundle.manifest.backbone.num_layers)

    def run(
        self,
        windows: Iterable[Sequence[Item] | None],
        encode: Callable[[Sequence[Item]], Encoded],
        max_batch_tokens: int | None = None,
        advance: Advance | None = None,
    ) -> Generator[OutputWindow[Item], None, None]:
        """The outputs of every window, in order; None among the windows is what a `RequestSource` means by it.

        The next window is drawn, encoded and planned while the engine computes this one, and of its passes the next is
        packed while one computes. Passes have at most `max_batch_tokens` tokens, None for the engine's own number.
        `advance` is told the number of sequences after each pass. What drawing or `encode` raises comes after the
        windows before it. Raises BackendError when the engine fails, and BundleError where the weights' files are no
        longer those that were loaded.
        """
        budget = max_batch_tokens or self.executor.batch_tokens

        def planned(items: Sequence[Item]) -> _PlannedWindow[Item]:
            encoded = encode(items)
            sequences = [s for found in encoded if not isinstance(found, InputError) for s in found]
            return _PlannedWindow(items, encoded, sequences, self.plan(sequences, budget))

        with one_ahead(planned, windows) as ahead:
            for window in ahead:
                yield self._computed(window, advance)

    def close(self) -> None:
        """Free the engine; waits for a pass that is running. Running the loop afterwards is an error."""
        self._runner.close()

    def plan(self, sequences: Sequence[TokenSequence], budget: int) -> BatchPlan:
        """The passes that compute the sequences, of at most `budget` tokens each."""
        if not sequences:
            return BatchPlan(batches=())
        if self.executor.graph.layout == "padded":
            return BatchPlan(batches=plan_padded_batches([len(s.ids) for s in sequences], budget))
        ids = [s.ids for s in sequences]
        prefixes = PrefixOrder(ids, share=self._share)
        # Of a lone sequence nothing is planned: what is cached of it is asked when its pass is packed.
        cached = None if self._cache is None or len(ids) == 1 else self._cache.match(ids)
        pages = None if cached is None else self._page_limit(cached)
        if cached is not None and self.executor.key_memories:  # their memory is small, and needed for the passes before
            cached = [CachedPrefix((), found.length) for found in cached]
        batches = plan_batches(ids, budget, self._rope_class, prefixes, cached, pages)
        return BatchPlan(batches=batches, prefixes=prefixes, cached=cached)

    def _page_limit(self, cached: Sequence[CachedPrefix]) -> PageLimit | None:
        """What each of the passes that run at a time may have of the pages, where keys stay in those."""
        pool = self.executor.page_pool
        if pool is None:
            return None
        count = pool.count // (self.executor.ahead + 1)
        return PageLimit(size=pool.page_size, count=count, ends=[page_ends(found) for found in cached])

    def _computed(self, window: _PlannedWindow[Item], advance: Advance | None) -> OutputWindow[Item]:
        self.bundle.check_unchanged()
        outcomes, statistics = self._runner.run(window.sequences, window.plan, advance)
        self.bundle.check_unchanged()  # nor were they changed meanwhile
        pairs = iter(zip(window.sequences, outcomes, strict=True))
        computed: list[Computed | InputError] = [
            found if isinstance(found, InputError) else [next(pairs) for _ in found] for found in window.encoded
        ]
        return OutputWindow(window.items, computed, statistics)
