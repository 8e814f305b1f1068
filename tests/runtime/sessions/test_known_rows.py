"""Which rows need not be read again, and what is left of a sequence without them."""

import numpy as np

from rmruntime.sequences import TokenSequence
from rmruntime.sessions.known_rows import Reading, all_rows, known_rows, remainder

ROPE_LENGTH = 6


def rope_class(length: int) -> int:
    """Every length beyond ROPE_LENGTH has frequencies of its own."""
    return length if length > ROPE_LENGTH else 0


def sequence(*ids: int, score: tuple[int, ...], gate: int = 0, kept: int | None = None) -> TokenSequence:
    reads = {"score": np.array(score), "gate": np.array([gate] * len(score))}
    return TokenSequence(ids=np.array(ids), reads=reads, kept=kept)


def reading(of: TokenSequence, *values: float) -> Reading:
    return Reading.of(of, {"score": np.array(values), "rewards": np.array([[v, -v] for v in values])}, rope_class)


def known(of: TokenSequence, *readings: Reading) -> list[float | None]:
    return [None if row is None else float(row["score"]) for row in known_rows(of, readings, rope_class)]


def test_rows_are_known_by_the_tokens_up_to_them_and_by_what_they_read() -> None:
    before = reading(sequence(1, 2, 3, 4, score=(1, 3)), 0.5, 0.25)
    assert known(sequence(1, 2, 3, 4, 5, score=(1, 3, 4)), before) == [0.5, 0.25, None]
    assert known(sequence(1, 2, 3, 9, score=(1, 3)), before) == [0.5, None]
    assert known(sequence(1, 2, 3, 4, score=(2, 3)), before) == [None, 0.25]
    assert known(sequence(1, 2, 3, 4, score=(1, 3), gate=1), before) == [None, None]
    assert known(sequence(1, 2, 3, 4, score=(1,), gate=2), before) == [None]
    other = reading(sequence(1, 2, 3, 9, score=(1, 3)), 7.0, 0.75)
    assert known(sequence(1, 2, 3, 9, score=(1, 3)), before, other) == [0.5, 0.75]


def test_rows_of_other_frequencies_are_not_known() -> None:
    before = reading(sequence(*range(7), score=(1, 6)), 0.5, 0.25)
    assert known(sequence(*range(6), score=(1,)), before) == [None]
    assert known(sequence(*range(8), score=(1, 6)), before) == [None, None]
    assert known(sequence(*range(7), score=(1,)), before) == [0.5]


def test_what_is_left_ends_with_the_last_token_that_is_read() -> None:
    left = remainder(sequence(*range(6), score=(1, 3)), [1], rope_class)
    assert (left.ids.tolist(), left.kept) == ([0, 1, 2, 3], 4)
    assert {role: places.tolist() for role, places in left.reads.items()} == {"score": [3], "gate": [0]}
    left = remainder(sequence(*range(9), score=(1, 3), kept=2), [0], rope_class)  # shorter, it would be another class
    assert (len(left.ids), left.kept, left.reads["score"].tolist()) == (9, 2, [1])


def test_rows_are_put_together_in_order() -> None:
    rows = known_rows(sequence(1, 2, 9, score=(0, 1, 2)), [reading(sequence(1, 2, score=(1,)), 0.5)], rope_class)
    computed = {"score": np.array([1.0, 3.0]), "rewards": np.array([[1.0, -1.0], [3.0, -3.0]])}
    found = all_rows(rows, computed)
    assert found["score"].tolist() == [1.0, 0.5, 3.0]
    assert found["rewards"].tolist() == [[1.0, -1.0], [0.5, -0.5], [3.0, -3.0]]
