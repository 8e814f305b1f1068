"""The gate's arithmetic: passes what it should, fails what it should."""

import math

import numpy as np
import pytest

from rmexport.verify.parity import (
    error_ratio,
    flipped_pairs,
    fp32_check,
    half_checks,
    rank_difference_error,
    spearman,
)

RNG = np.random.default_rng(0)
REFERENCE = RNG.normal(0, 2, 300)


def noisy(scale: float) -> np.ndarray:
    return REFERENCE + RNG.normal(0, scale, 300)


def test_fp32_tolerance_is_relative_above_one_and_absolute_below() -> None:
    reference = np.array([0.0, 1.0, 100.0])
    assert fp32_check("score", reference + np.array([9e-5, 9e-5, 9e-3]), reference).passed
    assert not fp32_check("score", reference + np.array([2e-4, 0, 0]), reference).passed
    assert not fp32_check("score", reference + np.array([0, 0, 2e-2]), reference).passed


def test_an_engine_as_noisy_as_transformers_passes() -> None:
    assert all(check.passed for check in half_checks("score", "bf16", noisy(0.01), noisy(0.01), REFERENCE))


def test_an_engine_twice_as_noisy_fails() -> None:
    checks = half_checks("score", "bf16", noisy(0.02), noisy(0.01), REFERENCE)
    assert not checks[0].passed


def test_a_few_wild_scores_fail() -> None:
    """A wrong score in a hundred hides in no mean: it flips pairs and moves the ranks."""
    wrong = noisy(0.001)
    wrong[::100] += 4
    checks = half_checks("score", "bf16", wrong, noisy(0.01), REFERENCE)
    assert [check.passed for check in checks[1:]] == [False, False]


def test_ranks_may_differ_by_chance_where_transformers_ranks_below_the_floor() -> None:
    """Of two that err alike one ranks worse: without an allowance it would fail."""
    rng = np.random.default_rng(1)
    draws = [REFERENCE + rng.normal(0, 0.25, 300) for _ in range(2)]
    worse, better = sorted(draws, key=lambda scores: spearman(scores, REFERENCE))
    assert spearman(worse, REFERENCE) < spearman(better, REFERENCE) < 0.999
    check = half_checks("score", "bf16", worse, better, REFERENCE)[1]
    assert check.passed and "s.e." in check.required
    assert half_checks("score", "bf16", better, worse, REFERENCE)[1].required.startswith(">= 0.99")


def test_an_engine_that_ranks_much_worse_than_transformers_fails() -> None:
    check = half_checks("score", "bf16", noisy(0.5), noisy(0.25), REFERENCE)[1]
    assert not check.passed and "s.e." in check.required


def test_no_allowance_where_transformers_ranks_well() -> None:
    check = half_checks("score", "bf16", noisy(0.25), noisy(0.001), REFERENCE)[1]
    assert not check.passed and check.required == ">= 0.999000"


def test_the_error_of_a_difference_of_ranks() -> None:
    """Of 50 draws of the noise of both, against the spread of the difference over 300."""
    rng = np.random.default_rng(2)
    differences, errors = [], []
    for draw in range(300):
        engine, own = (REFERENCE[:60] + rng.normal(0, 0.25, 60) for _ in range(2))
        differences.append(spearman(engine, REFERENCE[:60]) - spearman(own, REFERENCE[:60]))
        if draw < 50:
            errors.append(rank_difference_error(engine, own, REFERENCE[:60]))
    assert 0.8 < np.mean(errors) / np.std(differences) < 1.5
    assert rank_difference_error(REFERENCE[:2], REFERENCE[:2], REFERENCE[:2]) == math.inf


def test_ratio_and_standard_error() -> None:
    found = error_ratio(np.array([1.0, 1.0]), np.array([2.0, 2.0]))
    assert (found.ratio, found.standard_error) == (0.5, 0.0)
    assert error_ratio(np.array([0.0]), np.array([0.0])).ratio == 0.0
    assert error_ratio(np.array([0.1]), np.array([0.0])).ratio == math.inf


def test_spearman_with_ties() -> None:
    assert spearman(np.array([1.0, 2.0, 3.0]), np.array([10.0, 20.0, 21.0])) == pytest.approx(1)
    assert spearman(np.array([1.0, 2.0, 3.0]), np.array([3.0, 2.0, 1.0])) == pytest.approx(-1)
    assert spearman(np.array([1.0, 1.0, 2.0]), np.array([1.0, 2.0, 3.0])) == pytest.approx(math.sqrt(3) / 2)
    assert spearman(np.array([1.0]), np.array([2.0])) == 1.0
    assert spearman(np.array([1.0, 1.0]), np.array([1.0, 2.0])) == 0.0


def test_flips_count_only_beyond_the_margin() -> None:
    reference, engine = np.array([0.0, 1.0, 1.05]), np.array([0.0, 1.1, 1.0])
    assert flipped_pairs(engine, reference, margin=0.1) == 0
    assert flipped_pairs(engine, reference, margin=0.01) == 1
