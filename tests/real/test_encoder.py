"""MiniLM as a classifier of pairs of texts: every dtype and engine of this machine against transformers."""

from typing import Any

import pytest

from real_models import ENCODER, RUNS, runs_here

pytestmark = pytest.mark.real


@pytest.mark.parametrize(("dtype", "engine", "precision"), RUNS)
def test_parity(real_models: Any, dtype: str, engine: str, precision: str) -> None:
    if not runs_here(engine, precision):
        pytest.skip(f"{engine} has no {precision} products on this processor")
    bundle = real_models.bundle(ENCODER, dtype)
    real_models.check_parity(ENCODER, bundle, engine, precision)
