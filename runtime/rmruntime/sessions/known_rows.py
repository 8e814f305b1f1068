"""What the head read before, so that it is not read again: rows of the outputs, by the tokens that they depend on.

A row depends on the tokens up to the last position that it reads, and on the rotary frequencies, whose class the length
decides; on nothing after it, as attention is causal, and not on what else is computed with it. So a row is known where
an earlier sequence of the class had the same tokens up to there, and read the same positions.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from rmruntime.batching.trie import common_prefix
from rmruntime.scores import Arrays
from rmruntime.sequences import Ints, TokenSequence

RopeClass = Callable[[int], int]  # of a length
Positions = tuple[int, ...]  # that one row reads, by role
Row = Mapping[str, np.ndarray]  # by output, [] or [labels]


@dataclass(frozen=True)
class Reading:
    """The outputs of a sequence that was computed: `ids` [L], the positions of each row, and `outputs` by name, [P] or
    [P, labels].
    """

    ids: Ints
    rope_class: int
    positions: tuple[Positions, ...]
    outputs: Arrays

    @classmethod
    def of(cls, sequence: TokenSequence, outputs: Arrays, rope_class: RopeClass) -> "Reading":
        """That of a sequence with all its rows."""
        return cls(sequence.ids, rope_class(len(sequence.ids)), positions_of(sequence), outputs)

    @cached_property
    def rows(self) -> Mapping[Positions, int]:
        """The row of each of `positions`."""
        return {positions: row for row, positions in enumerate(self.positions)}

    def row(self, positions: Positions) -> Row | None:
        """The outputs at some positions, None where they were not read."""
        row = self.rows.get(positions)
        return None if row is None else {name: values[row] for name, values in self.outputs.items()}


def positions_of(sequence: TokenSequence) -> tuple[Positions, ...]:
    """The positions that each row reads, in the order of the rows.

    >>> positions_of(TokenSequence(ids=np.arange(9), reads={"score": np.array([4, 8]), "gate": np.array([2, 2])}))
    ((4, 2), (8, 2))
    """
    return tuple(zip(*(places.tolist() for places in sequence.reads.values()), strict=True))


def known_rows(sequence: TokenSequence, readings: Sequence[Reading], rope_class: RopeClass) -> list[Row | None]:
    """For each row of a sequence what an earlier one read there, None where it must be computed.

    >>> ids, reads = np.array([5, 6, 7, 8]), {"score": np.array([1, 3])}
    >>> before = Reading.of(TokenSequence(ids=ids, reads=reads), {"score": np.array([0.5, 0.25])}, lambda length: 0)
    >>> longer = TokenSequence(ids=np.array([5, 6, 7, 9]), reads=reads)
    >>> [row and row["score"].item() for row in known_rows(longer, [before], lambda length: 0)]
    [0.5, None]
    """
    wanted = positions_of(sequence)
    found: list[Row | None] = [None] * len(wanted)
    for reading in readings:
        if reading.rope_class != rope_class(len(sequence.ids)):
            continue
        shared = common_prefix(reading.ids, sequence.ids)
        for at, positions in enumerate(wanted):
            if found[at] is None and max(positions) < shared:
                found[at] = reading.row(positions)
    return found


def remainder(sequence: TokenSequence, missing: Sequence[int], rope_class: RopeClass) -> TokenSequence:
    """The sequence with the rows at `missing` alone, and without the tokens after those that they read.

    >>> sequence = TokenSequence(ids=np.array([5, 6, 7, 8]), reads={"score": np.array([1, 2])})
    >>> remainder(sequence, [1], lambda length: 0).ids.tolist()
    [5, 6, 7]
    """
    reads = {role: places[list(missing)] for role, places in sequence.reads.items()}
    end = 1 + max(int(places.max()) for places in reads.values())
    kept = end if sequence.kept is None else min(end, sequence.kept)
    # A shorter one of another class would have other frequencies.
    ids = sequence.ids[:end] if rope_class(end) == rope_class(len(sequence.ids)) else sequence.ids
    return replace(sequence, ids=ids, reads=reads, kept=kept)


def all_rows(known: Sequence[Row | None], computed: Arrays) -> Arrays:
    """The outputs of all rows, [P] or [P, labels], from those that were known and, in their order, the others.

    >>> all_rows([{"score": np.float32(0.5)}, None], {"score": np.array([0.25], np.float32)})["score"].tolist()
    [0.5, 0.25]
    """
    count = sum(row is None for row in known)
    fresh = iter([{name: values[at] for name, values in computed.items()} for at in range(count)])
    rows = [next(fresh) if row is None else row for row in known]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
