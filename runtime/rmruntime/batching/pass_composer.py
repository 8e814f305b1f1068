"""Makes passes of what waits in a `RequestQueue`: families of a prefix together, the oldest request first.

All that waits is planned at once, a round, of which the pass of the oldest request comes first. The last pass of a
round stays open: it is planned again together with what has come since. Where more waits than a pass takes, the next is
packed while the engine computes; what is less is packed only when the engine is free, with all that came until then.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rmruntime.batching.batch_plan import BatchPlan
from rmruntime.batching.prefetch import RECORDS_AHEAD
from rmruntime.batching.request_queue import QueuedRequest, RequestQueue, settle
from rmruntime.batching.runner import Batch, BatchRunner, PreparedPass, planned_batch
from rmruntime.executors import PassExecutor
from rmruntime.sequences import TokenSequence

FULL = 2  # times the tokens of a pass: some are shared, and so there is one that nothing could be added to

Part = tuple[QueuedRequest, int]  # a request, and the place of one of its sequences
Plan = Callable[[Sequence[TokenSequence], int], BatchPlan]  # of sequences, in passes of at most N tokens


@dataclass(frozen=True)
class _PlannedPass:
    """A batch of the plan, with the request of each of its sequences."""

    parts: Sequence[Part]
    batch: Batch


@dataclass(frozen=True)
class PackedPass:
    """A pass that can be submitted, with the request of each of its sequences."""

    parts: Sequence[Part]
    prepared: PreparedPass


class PassComposer:
    """The passes of one queue; safe from the two threads that ask for them."""

    def __init__(self, queue: RequestQueue, executor: PassExecutor, runner: BatchRunner, plan: Plan) -> None:
        self._queue, self._executor, self._runner, self._plan = queue, executor, runner, plan
        self._packing = threading.Lock()  # guards the next two
        self._round: deque[_PlannedPass] = deque()
        self._wave: list[PackedPass] = []

    @property
    def has_passes(self) -> bool:
        """Whether some are planned, or packed."""
        return bool(self._round or self._wave)

    @property
    def can_pack(self) -> bool:
        """Whether nothing is packed, and what waits fills the next passes, so that they need not stay open."""
        least = max(self._executor.batch_tokens, self._executor.wave_tokens)
        return not self._wave and (len(self._round) > 1 or self._queue.unplanned_tokens >= FULL * least)

    def pack_ahead(self) -> None:
        """Have the next passes ready."""
        with self._packing:
            if not self._wave:
                self._wave = self._packed_wave()
        with self._queue.changed:
            self._queue.changed.notify_all()  # what was in no list for a moment is in one again

    def next_wave(self) -> list[PackedPass]:
        """Passes to submit together, without requests that were cancelled or are too late."""
        with self._packing:
            wave, self._wave = self._wave or self._packed_wave(), []
        return [packed for one in wave if (packed := self._without_ended(one))]

    def _without_ended(self, packed: PackedPass) -> PackedPass | None:
        begun: dict[QueuedRequest, bool] = {}
        for item, _ in packed.parts:
            if item not in begun:
                begun[item] = self._queue.begin(item)
        places = [place for place, (item, _) in enumerate(packed.parts) if begun[item]]
        if len(places) == len(packed.parts):
            return packed
        if not places:
            return None
        batch = packed.prepared.batch.part(places, share=True)
        return PackedPass([packed.parts[place] for place in places], self._runner.prepare(batch))

    def _packed_wave(self) -> list[PackedPass]:
        """The next passes of what waits: one, or as many as the executor takes together."""
        wave: list[PackedPass] = []
        tokens = 0
        while (planned := self._next_pass()) is not None:
            try:
                wave.append(PackedPass(planned.parts, self._runner.prepare(planned.batch)))
            except Exception as error:  # of any type: others can be computed
                fail(planned.parts, error)
                continue
            tokens += wave[-1].prepared.inputs.computed
            if tokens >= self._executor.wave_tokens:
                break
        return wave

    def _next_pass(self) -> _PlannedPass | None:
        """The first of the round; its last, which others may fill up, is planned again together with what waits."""
        last = [part for one in self._round for part in one.parts] if len(self._round) == 1 else []
        if last or not self._round:
            items = self._queue.plan(RECORDS_AHEAD, like=last[0][0] if last else None)
            fresh = [(item, place) for item in items for place in range(len(item.sequences))]
            if fresh or not self._round:
                self._plan_round([part for part in last + fresh if not part[0].future.done()])
        return self._round.popleft() if self._round else None

    def _plan_round(self, parts: Sequence[Part]) -> None:
        try:
            self._round = deque(self._planned(parts) if parts else ())
        except Exception as error:  # of any type: others can be computed
            self._round.clear()
            fail(parts, error)

    def _planned(self, parts: Sequence[Part]) -> list[_PlannedPass]:
        sequences = [item.sequences[place] for item, place in parts]
        plan = self._plan(sequences, parts[0][0].options.max_batch_tokens or self._executor.batch_tokens)
        return [
            _PlannedPass([parts[i] for i in numbers], planned_batch(sequences, plan, numbers))
            for numbers in sorted(map(sorted, plan.batches))  # parts are in the order in which they came
        ]


def fail(parts: Sequence[Part], error: BaseException) -> None:
    """End the requests of a pass."""
    for item in {item: None for item, _ in parts}:
        settle(item.future, error)
