"""SmolLM2-135M as a classifier: every dtype, scheme and engine of this machine against transformers."""

from typing import Any

import pytest

from real_models import CLASSIFIER, RUNS, runs_here
from rmexport.verify.quality import LEVELS

pytestmark = pytest.mark.real


@pytest.fixture(params=RUNS, ids="-".join)
def run(request: pytest.FixtureRequest) -> tuple[str, str, str]:
    """Dtype of the bundle, engine, arithmetic."""
    dtype, engine, precision = request.param
    if not runs_here(engine, precision):
        pytest.skip(f"{engine} has no {precision} products on this processor")
    return dtype, engine, precision


def test_parity(real_models: Any, run: tuple[str, str, str]) -> None:
    """The project's own gate; a score does not depend on its batch."""
    dtype, engine, precision = run
    bundle = real_models.bundle(CLASSIFIER, dtype)
    real_models.check_parity(CLASSIFIER, bundle, engine, precision)
    real_models.check_independence(CLASSIFIER, bundle, engine, precision)


def test_int8(real_models: Any, run: tuple[str, str, str]) -> None:
    """About what docs/real_models.md has, with a margin: few pairs allow no finer bound.

    Compared with transformers in fp32, which saves a second run; the arithmetic's own error is part of it.
    """
    dtype, engine, precision = run
    bundle = real_models.bundle(CLASSIFIER, dtype, "int8")
    report = real_models.verify(
        CLASSIFIER, bundle, engine, precision, against="reference", quality="error=0.35,spearman=0.95,flips=0.15"
    )
    assert report.passed
    real_models.check_independence(CLASSIFIER, bundle, engine, precision)


def test_int4_is_refused(real_models: Any, run: tuple[str, str, str]) -> None:
    """Rounding to the nearest of 16 codes is too coarse for this model, and `verify` says so at its loosest level.

    A scheme that errs less makes this fail: then the README's figures are old too.
    """
    dtype, engine, precision = run
    bundle = real_models.bundle(CLASSIFIER, dtype, "int4")
    report = real_models.verify(CLASSIFIER, bundle, engine, precision, against="reference", quality="loose")
    assert not report.passed
    [found] = report.quality
    assert found.relative_error > LEVELS["loose"].error and found.spearman < LEVELS["loose"].spearman
    assert not any("finite" in check.name for check in report.checks)
    real_models.check_independence(CLASSIFIER, bundle, engine, precision)


def test_the_largest_activation(real_models: Any) -> None:
    """The outliers that random weights lack: larger than a third of what fp16 holds, and within it."""
    report = real_models.verify(CLASSIFIER, real_models.bundle(CLASSIFIER, "fp16"), "ort-cpu", "fp32")
    assert report.peak_layer is not None and report.peak_magnitude is not None
    assert 65504 / 3 < report.peak_magnitude < 65504
