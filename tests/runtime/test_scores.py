"""Raw outputs to scores, by the manifest alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rmruntime.bundle.manifest import Output
from rmruntime.errors import BackendError
from rmruntime.scores import aggregated, score_from_outputs, score_from_partials
from rmruntime.sequences import TokenSequence
from text_formats import classifier, gated, grader
from tiny_tokenizer import TinyTokenizer, build_tokenizer


@pytest.fixture
def tiny(tmp_path: Path) -> TinyTokenizer:
    return build_tokenizer(tmp_path)


def sequence(reads: int = 1) -> TokenSequence:
    return TokenSequence(ids=np.arange(5), reads={"score": np.arange(reads)}, truncated=2, flags=("odd",))


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_classifier(tiny: TinyTokenizer) -> None:
    score = score_from_outputs(classifier(tiny), sequence(), {"score": floats(1.5)}, "mean")
    assert (score.value, score.tokens, score.truncated, score.flags) == (1.5, 5, 2, ("odd",))
    assert score.rewards is score.steps is score.logit is None


def test_gated(tiny: TinyTokenizer) -> None:
    labels = ("helpful", "honest", "brief")
    many = [Output(name=name, per="sequence", labels=labels) for name in ("rewards", "gating")]
    manifest = replace(gated(tiny), outputs=(Output(name="score", per="sequence"), *many), score="score")
    row = np.arange(len(labels), dtype=np.float32)[None]
    score = score_from_outputs(manifest, sequence(), {"score": floats(2), "rewards": row, "gating": row / 2}, "mean")
    assert score.rewards == {label: float(i) for i, label in enumerate(labels)}
    assert score.gating == {label: i / 2 for i, label in enumerate(labels)}


def test_steps(tiny: TinyTokenizer) -> None:
    outputs = {"score": floats(0.5, 0.25), "logit": floats(0, -1)}
    score = score_from_outputs(grader(tiny, "step"), sequence(2), outputs, "min")
    assert (score.value, score.steps, score.step_logits, score.logit) == (0.25, (0.5, 0.25), (0.0, -1.0), None)


def test_probability_keeps_its_logit(tiny: TinyTokenizer) -> None:
    score = score_from_outputs(grader(tiny, "sequence"), sequence(), {"score": floats(0.5), "logit": floats(0)}, "mean")
    assert (score.value, score.logit, score.steps) == (0.5, 0.0, None)


def test_partial_answers(tiny: TinyTokenizer) -> None:
    partials = [score_from_outputs(classifier(tiny), sequence(), {"score": floats(v)}, "mean") for v in (1.0, 4.0)]
    score = score_from_partials(partials, "mean")
    assert (score.value, score.steps, score.tokens) == (2.5, (1.0, 4.0), 5)


def test_values_that_are_not_finite_are_an_error_never_a_score(tiny: TinyTokenizer) -> None:
    with pytest.raises(BackendError, match="overflowed"):
        score_from_outputs(classifier(tiny), sequence(), {"score": floats(np.nan)}, "mean")


def test_aggregates() -> None:
    values = (0.5, 0.25, 1.0)
    assert aggregated(values, "mean") == pytest.approx(1.75 / 3)
    assert (aggregated(values, "min"), aggregated(values, "last"), aggregated(values, "prod")) == (0.25, 1.0, 0.125)
