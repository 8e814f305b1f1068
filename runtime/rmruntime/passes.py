"""Runs planned batches on an engine: the next is packed while one computes, one that does not fit is cut in two."""

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import accumulate

from rmruntime.backends.base import Backend
from rmruntime.errors import DeviceLimit, DeviceMemoryError, PassTooLarge, RewardModelError
from rmruntime.packing import PassInputs, pack, row_shape
from rmruntime.padding import pad
from rmruntime.scores import Arrays
from rmruntime.sequences import TokenSequence
from rmruntime.windows import one_ahead

Advance = Callable[[int], object]
Outcome = Arrays | DeviceLimit


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """`given` tokens of all sequences, `computed` after sharing, in `passes` passes of the engine.

    `padded` counts what was computed beyond real tokens: query slots of a packed graph's attention rows, or the tokens
    that fill up a padded graph's.
    """

    sequences: int = 0
    given: int = 0
    computed: int = 0
    padded: int = 0
    passes: int = 0

    def __add__(self, other: "Statistics") -> "Statistics":
        return Statistics(
            sequences=self.sequences + other.sequences,
            given=self.given + other.given,
            computed=self.computed + other.computed,
            padded=self.padded + other.padded,
            passes=self.passes + other.passes,
        )


class Passes:
    """The passes of one engine, which run one at a time whatever thread asks."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._rows = row_shape(backend.graph)
        self._lock, self._closed = threading.Lock(), False

    def run(
        self, sequences: Sequence[TokenSequence], batches: Sequence[Sequence[int]], advance: Advance | None = None
    ) -> tuple[list[Outcome], Statistics]:
        """What the engine gives for each sequence, in their order; `batches` are the indices of each pass.

        A sequence whose pass does not fit into the device, nor a smaller one, has a DeviceLimit instead. `advance` is
        told the number of sequences after each batch. Raises BackendError when the engine fails otherwise.
        """
        found: dict[int, Outcome] = {}
        statistics = Statistics()
        parts = [[sequences[i] for i in batch] for batch in batches]
        # A thread is not worth its start for one pass.
        ahead: AbstractContextManager[Iterable[PassInputs]] = (
            one_ahead(self._prepare, parts) if len(parts) > 1 else nullcontext(map(self._prepare, parts))
        )
        with ahead as prepared:
            for batch, part, inputs in zip(batches, parts, prepared, strict=True):
                outcomes, one = self._batch(part, inputs)
                found |= dict(zip(batch, outcomes, strict=True))
                statistics += one
                if advance is not None:
                    advance(len(batch))
        return [found[i] for i in range(len(sequences))], statistics

    def close(self) -> None:
        """Free the engine; waits for a pass that is running. Scoring afterwards is an error."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._backend.close()

    def _prepare(self, sequences: Sequence[TokenSequence]) -> PassInputs:
        graph = self._backend.graph
        return pad(sequences, graph.pad_id) if graph.layout == "padded" else pack(sequences, self._rows)

    def _batch(
        self, sequences: Sequence[TokenSequence], inputs: PassInputs, *, retry: bool = True
    ) -> tuple[list[Outcome], Statistics]:
        """One batch in one pass, or in more where the device does not take it."""
        try:
            return self._pass(sequences, inputs)
        except PassTooLarge as error:  # of known limits: halves are tried until they fit
            problem: Exception = error
            again = True
        except DeviceMemoryError as error:  # once: what fits then is not known
            problem = error
            again, retry = retry, False
        if not again or len(sequences) == 1:
            return [_limit(problem, sequences, inputs) for _ in sequences], Statistics()
        outcomes: list[Outcome] = []
        statistics = Statistics()
        middle = len(sequences) // 2
        for half in (sequences[:middle], sequences[middle:]):
            found, one = self._batch(half, self._prepare(half), retry=retry)
            outcomes += found
            statistics += one
        return outcomes, statistics

    def _pass(self, sequences: Sequence[TokenSequence], inputs: PassInputs) -> tuple[list[Outcome], Statistics]:
        with self._lock:
            if self._closed:
                raise RewardModelError("this RewardModel is closed; load the bundle again")
            outputs = self._backend.run(inputs.feeds)
        ends = zip(inputs.reads, accumulate(inputs.reads), strict=True)
        arrays: list[Outcome] = [{name: v[end - count : end] for name, v in outputs.items()} for count, end in ends]
        return arrays, Statistics(
            sequences=len(sequences), given=inputs.given, computed=inputs.computed, padded=inputs.padded, passes=1
        )


def _limit(problem: Exception, sequences: Sequence[TokenSequence], inputs: PassInputs) -> DeviceLimit:
    if len(sequences) == 1:
        what, way = f"of one sequence of {inputs.given}", "shorten it with --max-length and --truncate"
    else:
        longest = max(len(s.ids) for s in sequences)
        what, way = f"of {len(sequences)} sequences of up to {longest}", "lower --max-batch-tokens"
    return DeviceLimit(f"a pass of {inputs.computed} tokens, {what}, does not fit into the device ({problem}); {way}")
