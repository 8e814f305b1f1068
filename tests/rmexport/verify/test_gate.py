"""Which outputs are judged, by which dtypes, and that what is not finite is left to the check that names it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from rmexport.verify.conversations import Conversations
from rmexport.verify.engine_run import EngineRun
from rmexport.verify.gate import (
    Measurement,
    compared_outputs,
    parity_checks,
    quantization_quality,
    reference_dtypes,
    soundness_checks,
)
from rmexport.verify.reference import ReferenceScores
from rmexport.verify.reference_backbone import LayerPeak
from rmexport.verify.yardstick import ScoreOrigin, Yardstick
from rmruntime.bundle.manifest import Manifest, Output
from rmruntime.sequences import TokenSequence

SCORES = [0.5, -1.0, 2.0]
REWARDS = [[1.0, 2.0], [3.0, 5.0], [4.0, 4.0]]


class FakeManifest:
    """The fields that the gate reads."""

    def __init__(self, *outputs: Output, dtype: str = "fp32", score: str | None = "score", scheme: Any = None) -> None:
        self.outputs, self.dtype, self.score, self.quantization = outputs, dtype, score, scheme


def manifest(*names: str, **fields: Any) -> Manifest:
    outputs = (Output(name=name, per="sequence", labels=("a", "b") if name == "rewards" else None) for name in names)
    return FakeManifest(*outputs, **fields)  # type: ignore[return-value]


def measured(of: Manifest, engine: Mapping[str, Any], **transformers: Mapping[str, Any]) -> Measurement:
    """Outputs of three sequences: the engine's, and by dtype those of transformers."""

    def arrays(values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: np.array(value, np.float32) for name, value in values.items()}

    def yardstick(dtype: str, values: Mapping[str, Any]) -> Yardstick:
        scores = ReferenceScores(arrays(values), (LayerPeak("layers.0", 3.0),))
        return Yardstick(scores=scores, origin=ScoreOrigin(dtype=dtype, computed=3, kept=0, kept_since=None))

    sequences = [TokenSequence(ids=np.array([i]), reads={"score": np.array([0])}) for i in range(3)]
    return Measurement(
        manifest=of,
        conversations=Conversations(sequences, left_out=0, pairs=[(0, 1)]),
        engine=EngineRun(outputs=arrays(engine), backend="ort-cpu", precision="fp32", reason=""),
        yardsticks={dtype: yardstick(dtype, values) for dtype, values in transformers.items()},
    )


@pytest.mark.parametrize(
    ("of", "compared"),
    [
        (manifest("score", "rewards"), ["score", "rewards"]),
        (manifest("score", "rewards", dtype="bf16"), ["score"]),
        (manifest("score", "rewards", scheme="int8"), ["score"]),
        (manifest("score", "logit"), ["logit"]),
        (manifest("rewards", dtype="bf16", score=None), ["rewards"]),
    ],
)
def test_what_is_compared(of: Manifest, compared: list[str]) -> None:
    assert compared_outputs(of) == compared


def test_a_quantized_bundle_is_measured_from_fp32_alone() -> None:
    assert reference_dtypes(manifest("score")) == ("fp32",)
    assert reference_dtypes(manifest("score", dtype="bf16")) == ("fp32", "bf16")
    assert reference_dtypes(manifest("score", dtype="bf16", scheme="int8")) == ("fp32",)


def test_parity_is_judged_in_the_bundles_dtype() -> None:
    good = {"score": SCORES}
    [check] = parity_checks(measured(manifest("score"), good, fp32=good))
    assert check.passed and check.name == "score: error in fp32"
    rough = {"score": [0.51, -1.01, 2.02]}
    checks = parity_checks(measured(manifest("score", dtype="bf16"), good, fp32=good, bf16=rough))
    assert [check.passed for check in checks] == [True] * 3 and "transformers' own in bf16" in checks[0].name
    checks = parity_checks(
        measured(manifest("score", dtype="bf16"), {"score": [0.6, -1.2, 2.4]}, fp32=good, bf16=rough)
    )
    assert [check.passed for check in checks] == [False, True, True]


def test_what_is_not_finite_has_a_check_of_its_own() -> None:
    one = measured(manifest("score"), {"score": [0.5, np.nan, 2.0]}, fp32={"score": SCORES})
    assert [check.passed for check in parity_checks(one)] == [True]
    [check] = soundness_checks(one)
    assert not check.passed and (check.name, check.measured[:6]) == ("score: finite (ort-cpu)", "1 of 3")
    none = measured(manifest("score"), {"score": [np.nan] * 3}, fp32={"score": SCORES})
    assert parity_checks(none) == []


def test_scores_that_are_all_the_same_are_unsound() -> None:
    same = measured(manifest("score"), {"score": [0.5] * 3}, fp32={"score": [0.5] * 3})
    assert [check.name for check in soundness_checks(same)] == ["score: not all the same"]
    differing = measured(manifest("score"), {"score": SCORES}, fp32={"score": SCORES})
    assert soundness_checks(differing) == []


def test_quantization_is_measured_by_column() -> None:
    of = manifest("rewards", score=None, scheme="int8")
    moved = [[1.0, 2.5], [3.0, 5.5], [4.0, 4.5]]
    one = measured(of, {"rewards": moved}, fp32={"rewards": REWARDS})
    found = quantization_quality(one, {"rewards": np.array(REWARDS, np.float32)})
    assert [(q.output, q.mean_error, q.pairs, q.flipped) for q in found] == [
        ("rewards a", 0.0, 1, 0),
        ("rewards b", 0.5, 1, 0),
    ]
