"""Padded batches as a careful user makes them: sorted by length, padded on the right, with an attention mask."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rmexport.bench.worker.scorer import Request, Scores

Rows = list[list[int]]
Logits = Callable[[Rows, Rows], list[float]]


@dataclass(frozen=True)
class Batch:
    """Token ids and mask [rows, width], and `order`, the index of each row's sequence."""

    order: list[int]
    ids: Rows
    mask: Rows


def pad(sequences: Sequence[Sequence[int]], order: Sequence[int], pad_id: int) -> Batch:
    """The sequences with the indices `order`, padded on the right to the longest of them.

    >>> batch = pad([[5, 6, 7], [8]], order=[0, 1], pad_id=0)
    >>> batch.ids, batch.mask
    ([[5, 6, 7], [8, 0, 0]], [[1, 1, 1], [1, 0, 0]])
    """
    width = max(len(sequences[i]) for i in order)
    ids = [[*sequences[i], *[pad_id] * (width - len(sequences[i]))] for i in order]
    mask = [[1] * len(sequences[i]) + [0] * (width - len(sequences[i])) for i in order]
    return Batch(list(order), ids, mask)


def sorted_batches(sequences: Sequence[Sequence[int]], size: int, pad_id: int) -> list[Batch]:
    """Batches of at most `size` sequences of similar length, the shortest first.

    >>> [batch.order for batch in sorted_batches([[5, 6, 7], [8], [9, 9]], size=2, pad_id=0)]
    [[1, 2], [0]]
    """
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    return [pad(sequences, order[start : start + size], pad_id) for start in range(0, len(order), size)]


class PaddedScorer:
    """A Scorer that pads batches and calls `logits(ids, mask)`, which returns one score per row.

    `batch` is the most sequences in one.

    >>> scorer = PaddedScorer(
    ...     lambda ids, mask: [float(sum(row)) for row in mask], batch=2, pad_id=0, precision="fp32", settings="lengths"
    ... )
    >>> scorer.score([Request(sequences=[[5, 6, 7], [8]])]).values
    [3.0, 1.0]
    """

    def __init__(self, logits: Logits, *, batch: int, pad_id: int, precision: str, settings: str) -> None:
        self._logits, self._pad_id = logits, pad_id
        self.budget, self.precision = batch, precision
        self.settings = f"{settings}, sorted by length, batches of {batch}, padded right, from token ids"

    def weight(self, request: Request) -> int:
        return len(request.sequences)

    def score(self, requests: Sequence[Request]) -> Scores:
        sequences = [ids for request in requests for ids in request.sequences]
        values, computed = [0.0] * len(sequences), 0
        for batch in sorted_batches(sequences, self.budget, self._pad_id):
            computed += len(batch.ids) * len(batch.ids[0])
            for i, value in zip(batch.order, self._logits(batch.ids, batch.mask), strict=True):
                values[i] = value
        return Scores(values, computed, computed - sum(map(len, sequences)))

    def reset(self) -> None:
        pass
