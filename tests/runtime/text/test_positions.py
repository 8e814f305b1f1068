"""Position rules and what a cut does to them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmruntime.bundle.manifest import PositionRule
from rmruntime.errors import BundleError, InputError, InputTooLong
from rmruntime.options import ScoreOptions
from rmruntime.text.positions import StepEnds, check_rules, cut_reads, find_pattern, find_positions, find_reads
from rmruntime.text.truncation import Cut, length_limit, plan_cut

PAD = 9
LAST = PositionRule(rule="last")
NOT_PAD = PositionRule(rule="last_not_pad", pad_id=PAD)
FIRST_PAD = PositionRule(rule="before_first_pad", pad_id=PAD)
STEP_END = PositionRule(rule="step_end")
GATE = PositionRule(rule="pattern_start", tokens=(1, 2), text="<gate>")
MARKER = PositionRule(rule="marker", tokens=(1, 2))
BEFORE = PositionRule(rule="before_marker", tokens=(1, 2, 3), text="<reply>+")


def array(*ids):
    return np.array(ids, dtype=np.int64)


@given(ids=st.lists(st.integers(0, 2), max_size=20), tokens=st.lists(st.integers(0, 2), min_size=1, max_size=4))
def test_patterns_are_found_wherever_they_are(ids, tokens):
    found = find_pattern(array(*ids), tuple(tokens))
    assert found.tolist() == [i for i in range(len(ids)) if ids[i : i + len(tokens)] == tokens]


@pytest.mark.parametrize(
    ("rule", "ids", "expected"),
    [
        (LAST, (5, 6, 7), [2]),
        (LAST, (5, PAD), [1]),
        (NOT_PAD, (5, 6, 7), [2]),
        (NOT_PAD, (5, PAD, 7, PAD, PAD), [2]),
        (GATE, (1, 2, 5, 1, 2, 6), [3]),
        (MARKER, (1, 2, 5, 1, 2), [1, 4]),
        (BEFORE, (1, 2, 3, 5, 1, 2, 3), [1, 5]),
        (PositionRule(rule="marker", tokens=(7,)), (7, 7), [0, 1]),
        (PositionRule(rule="marker", tokens=(0, 0)), (0, 0, 0, 256, 1, 0, 0), [1, 2, 6]),
        (PositionRule(rule="marker", tokens=(1,)), (256, 65536, 1 << 40, 1), [3]),
        (PositionRule(rule="before_marker", tokens=(7,)), (5, 7), [0]),
        (FIRST_PAD, (5, 6, 7), [2]),
        (FIRST_PAD, (5, PAD, 7, PAD), [0]),
    ],
)
def test_rules(rule, ids, expected):
    found = find_positions(rule, array(*ids))
    assert found.tolist() == expected and found.dtype == np.int64


def test_trap_pad_is_eos():
    # The end of the last turn is the pad token: transformers >= 4.49 scores the token before it, and so do we.
    assert find_positions(NOT_PAD, array(5, PAD, 6, 7, PAD)).tolist() == [3]


@pytest.mark.parametrize(
    ("rule", "ids", "message"),
    [
        (NOT_PAD, (PAD, PAD), "every one of the 2 tokens is the pad token 9"),
        (FIRST_PAD, (PAD, 5), "the first of the 2 tokens is the pad token 9"),
        (STEP_END, (1, 2), "does not say where its steps end; give prompt and steps"),
        (GATE, (1, 3), "found no '<gate>' among the 2 tokens"),
        (MARKER, (1,), r"found no the token pattern \[1, 2\]"),
        (PositionRule(rule="before_marker", tokens=(7,), text="+"), (7,), "found '\\+' as the first token"),
    ],
)
def test_rules_that_find_nothing(rule, ids, message):
    with pytest.raises(InputError, match=message):
        find_positions(rule, array(*ids))


def test_rules_that_cannot_be_executed():
    for rules, message in (
        ({}, "found no role"),
        ({"gate": PositionRule(rule="pattern_start")}, "positions.gate: the rule pattern_start has no tokens"),
        ({"score": PositionRule(rule="last_not_pad")}, "positions.score: the rule last_not_pad has no pad_id"),
        ({"score": PositionRule(rule="before_first_pad")}, "positions.score: the rule before_first_pad has no pad_id"),
    ):
        with pytest.raises(BundleError, match=message):
            check_rules(rules)


def test_roles_are_aligned_to_the_same_number_of_reads():
    reads = find_reads({"end": LAST, "step": MARKER}, array(1, 2, 5, 1, 2, 6), 2)
    assert {role: positions.tolist() for role, positions in reads.items()} == {"end": [5, 5], "step": [1, 4]}


@pytest.mark.parametrize(
    ("expected", "message"),
    [(1, "found 2 place.* where step is read .*expected 1"), (3, "found 2 place.*expected 3")],
)
def test_trap_content_spells_the_marker(expected, message):
    with pytest.raises(InputError, match=message):
        find_reads({"step": MARKER}, array(1, 2, 1, 2), expected)


def test_step_ends_are_read_where_the_layout_put_them():
    ends = StepEnds(array(1, 4), array(2, 5))
    reads = find_reads({"step": STEP_END}, array(1, 2, 5, 1, 2, 6), 2, ends)
    assert reads["step"].tolist() == [2, 5]
    with pytest.raises(InputError, match=r"found 2 place.* where step is read .the end of a step.*expected 1"):
        find_reads({"step": STEP_END}, array(1, 2, 5, 1, 2, 6), 1, ends)


def test_trap_truncation_cuts_off_a_separator():
    rules, ids, ends = {"step": STEP_END}, array(7, 1, 2, 5, 1, 2), StepEnds(array(1, 4), array(2, 5))
    reads = find_reads(rules, ids, 2, ends)
    assert cut_reads(rules, reads, ids, Cut(removed=((0, 1),)), ends)["step"].tolist() == [1, 4]
    for removed in ((0, 2), (5, 6), (4, 5)):
        with pytest.raises(InputError, match="cuts off the end of a step, where step is read"):
            cut_reads(rules, reads, ids, Cut(removed=(removed,)), ends)


def test_roles_that_find_different_numbers():
    with pytest.raises(InputError, match="expected 3, as for another role"):
        find_reads({"a": MARKER, "b": PositionRule(rule="marker", tokens=(5,))}, array(1, 2, 1, 2, 5, 5, 5), None)


def moved(rule, ids, cut):
    reads = find_reads({"role": rule}, array(*ids), None)
    return cut_reads({"role": rule}, reads, array(*ids), cut)["role"].tolist()


def test_reads_move_with_a_cut():
    right, left, spared = Cut(removed=((4, 6),)), Cut(removed=((0, 2),)), Cut(removed=((1, 3),))
    assert moved(LAST, (5, 5, 5, 5, 5, 5), right) == [3]
    assert moved(NOT_PAD, (5, 5, 5, PAD, 5, 5), right) == [2]
    assert moved(FIRST_PAD, (5, 5, 5, 5, PAD, 5), right) == [3]  # as code that truncates and then looks
    assert moved(FIRST_PAD, (5, 5, 5, PAD, 5, 5), left) == [0]
    assert moved(GATE, (5, 5, 1, 2, 5, 5), right) == [2]
    assert moved(GATE, (5, 5, 1, 2, 5, 5), left) == [0]
    assert moved(GATE, (5, 5, 5, 1, 2, 5), spared) == [1]
    assert moved(BEFORE, (5, 5, 5, 1, 2, 3), spared) == [2]


@pytest.mark.parametrize(
    ("rule", "ids", "cut"),
    [
        (GATE, (1, 2, 5, 1, 2), Cut(removed=((4, 5),))),  # an earlier turn's pattern must not take its place
        (GATE, (5, 1, 2, 5), Cut(removed=((0, 2),))),
        (MARKER, (1, 2, 5, 1, 2), Cut(removed=((0, 1),))),
        (MARKER, (1, 2, 5, 1, 2), Cut(removed=((4, 5),))),
        (BEFORE, (5, 1, 2, 3), Cut(removed=((3, 4),))),
        (GATE, (1, 2, 5, 5), Cut(removed=((1, 2),))),
    ],
)
def test_trap_truncation_cuts_off_the_pattern(rule, ids, cut):
    with pytest.raises(InputError, match=r"cuts off .*, where role is read"):
        moved(rule, ids, cut)


def test_a_cut_that_leaves_only_padding():
    with pytest.raises(InputError, match="every one of the 2 tokens is the pad token"):
        moved(NOT_PAD, (PAD, PAD, 5), Cut(removed=((2, 3),)))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("keep_first", [True, False])
@pytest.mark.parametrize("limit", [1, 2, 5])
def test_cuts_keep_exactly_the_limit(side, keep_first, limit):
    ids = np.arange(6)
    kept = plan_cut(6, limit, ScoreOptions(truncate=side), [(int(keep_first), 6)]).keep(ids).tolist()
    tail = [*range(6)][6 - limit :]
    expected = [*range(limit)] if side == "right" else [0, *tail[1:]] if keep_first else tail
    assert kept == expected


def test_limits():
    assert length_limit(ScoreOptions(), 8) == 8
    assert length_limit(ScoreOptions(max_length=4), 8) == 4
    assert length_limit(ScoreOptions(max_length=40), 8) == 8
    with pytest.raises(InputTooLong, match=r"found 9 tokens, the limit is 8; .*--truncate"):
        plan_cut(9, 8, ScoreOptions(), [(0, 9)])


@pytest.mark.parametrize(
    ("side", "limit", "expected"),
    [
        ("right", 8, [0, 1, 2, 3, 4, 5, 6, 9]),
        ("right", 6, [0, 1, 2, 4, 5, 9]),  # the last span first, then the end of the one before
        ("right", 4, [0, 4, 5, 9]),
        ("left", 8, [0, 3, 4, 5, 6, 7, 8, 9]),
        ("left", 6, [0, 4, 5, 7, 8, 9]),  # the first span first, then the beginning of the next
        ("left", 4, [0, 4, 5, 9]),
    ],
)
def test_cuts_take_only_from_what_may_be_lost(side, limit, expected):
    cut = plan_cut(10, limit, ScoreOptions(truncate=side), [(1, 4), (6, 9)])
    kept = cut.keep(np.arange(10))
    assert kept.tolist() == expected
    assert cut.shift(kept).tolist() == [*range(limit)]
    every = np.arange(10)
    assert [bool(cut.holds(every[i : i + 1], every[i : i + 1])) for i in range(10)] == [
        i in expected for i in range(10)
    ]


def test_a_limit_below_what_must_stay():
    with pytest.raises(InputTooLong, match="found 10 tokens, the limit is 3, and only 6 of them may be cut"):
        plan_cut(10, 3, ScoreOptions(truncate="left"), [(1, 4), (6, 9)])
