"""When another contestant's scores count as ours."""

import math

import pytest

from rmexport.bench.agreement import agreement, tolerance, worse

OURS = [1.0, -2.0, 0.5, 3.0]
BOTH_FP32 = ("fp32", "fp32")


def test_equal_scores_agree() -> None:
    found = agreement(OURS, OURS, BOTH_FP32, [(0, 1), (2, 3)])
    assert found["same"] and found["max_abs"] == 0.0 and found["spearman"] == 1.0
    assert (found["flipped_pairs"], found["pairs"]) == (0, 2)


def test_fp32_is_held_to_the_gate_and_16_bit_to_its_rounding() -> None:
    assert tolerance(OURS, BOTH_FP32) == pytest.approx(3e-4)
    near = [value + 0.01 for value in OURS]
    assert not agreement(OURS, near, BOTH_FP32, [])["same"]
    assert agreement(OURS, near, ("fp32", "bf16"), [])["same"] and agreement(OURS, near, ("fp16", "fp32"), [])["same"]
    # bf16 rewards near 23 move in steps of 0.125
    assert agreement([23.0, 3.6], [23.125, 3.6], ("bf16", "bf16"), [])["same"]
    assert not agreement(OURS, [v + 0.5 for v in OURS], ("bf16", "bf16"), [])["same"]


def test_one_wrong_score_of_many_16_bit_scores_is_found() -> None:
    """Its share of the root mean square is small: each score has a bound of its own."""
    many = OURS * 64
    found = agreement(many, [many[0] + 1.5, *many[1:]], ("bf16", "bf16"), [])
    assert found["rms"] < found["rms_tolerance"] and not found["same"]
    assert agreement(many, [many[0] + 1.0, *many[1:]], ("bf16", "bf16"), [])["same"]


def test_flipped_pairs_are_counted() -> None:
    found = agreement(OURS, [-2.0, 1.0, 0.5, 3.0], BOTH_FP32, [(0, 1), (2, 3)])
    assert found["flipped_pairs"] == 1 and not found["same"]


@pytest.mark.parametrize("found", [[1.0, None, 0.5, 3.0], [1.0], []])
def test_missing_scores_are_other_scores(found: list[float | None]) -> None:
    record = agreement(OURS, found, BOTH_FP32, [])
    assert record["same"] is False and record["max_abs"] is None


def test_the_worst_pass_is_reported() -> None:
    good, bad = agreement(OURS, OURS, BOTH_FP32, []), agreement(OURS, [9.0] * 4, BOTH_FP32, [])
    none = agreement(OURS, [None] * 4, BOTH_FP32, [])
    assert worse(None, good) is good and worse(good, bad) is bad and worse(bad, good) is bad
    assert worse(bad, none) is none and worse(none, bad) is none and math.isfinite(bad["max_abs"])
