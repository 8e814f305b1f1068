"""Verify says why scores mean nothing, where transformers overflows in the same way."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from rmexport import export
from rmexport.verify.options import VerifyOptions
from rmexport.verify.reference_backbone import LayerPeak
from rmexport.verify.report import table
from rmexport.verify.run import verify
from rmexport.verify.soundness import difference_checks, finite_checks, peak_checks, worst_peak
from rmruntime.sequences import TokenSequence
from tiny_checkpoints import TinyShape, sequence_classifier


def sequences(count: int) -> list[TokenSequence]:
    return [TokenSequence(ids=np.array([i, i]), reads={"score": np.array([1])}) for i in range(count)]


def test_activations_that_overflow_and_are_normed_away_fail(tmp_path: Path) -> None:
    checkpoint = sequence_classifier(tmp_path / "checkpoint", TinyShape(num_hidden_layers=2))
    path = checkpoint.folder / "model.safetensors"
    weights = load_file(path)
    save_file({k: v * 1e30 if "down_proj" in k else v for k, v in weights.items()}, path, metadata={"format": "pt"})
    export(str(checkpoint.folder), tmp_path / "bundle")
    report = verify(tmp_path / "bundle", str(checkpoint.folder), VerifyOptions(conversations=16, write=False))
    told = {check.name: check for check in report.checks if not check.passed}
    assert not report.passed and list(told) == ["score: not all the same", "largest activation, layers.0"]
    assert "results are 0" in told["score: not all the same"].measured
    assert "its square overflows in fp32" in told["largest activation, layers.0"].required
    assert "e+30 in layers.0" in table(report)


@pytest.mark.parametrize(
    ("dtype", "magnitudes", "layer"),
    [
        ("fp32", (1.0, 1e30, 2e30), "b"),
        ("bf16", (1.0, float("nan"), 5.0), "b"),
        ("bf16", (1.0, 2.0, float("inf")), "c"),
        ("fp16", (1.0, 7e4, 9e4), "b"),
    ],
)
def test_the_first_layer_that_overflows_is_named(dtype: str, magnitudes: tuple[float, ...], layer: str) -> None:
    peaks = [LayerPeak(name, magnitude) for name, magnitude in zip("abc", magnitudes, strict=True)]
    [check] = peak_checks(peaks, dtype)
    found = worst_peak(peaks, dtype)
    assert found is not None and found.layer == layer and check.name.endswith(layer) and not check.passed


def test_sound_peaks_say_nothing_but_in_fp16() -> None:
    peaks = [LayerPeak("a", 3.0), LayerPeak("b", 5e4)]
    assert peak_checks(peaks, "bf16") == peak_checks([], "fp16") == []
    assert [check.passed for check in peak_checks(peaks, "fp16")] == [True]


def test_results_that_are_no_numbers_are_told_with_their_conversation() -> None:
    good, bad = np.zeros(3, np.float32), np.array([0, np.nan, np.inf], np.float32)
    [check] = finite_checks(["score"], sequences(3), {"engine": {"score": bad}, "transformers": {"score": good}})
    assert check.name == "score: finite (engine)" and "2 of 3" in check.measured and "conversation 1" in check.measured


def test_equal_results_of_equal_conversations_are_no_fault() -> None:
    same = {"score": np.ones(2, np.float32)}
    assert difference_checks(["score"], [*sequences(1), *sequences(1)], same) == []
    assert len(difference_checks(["score"], sequences(2), same)) == 1
    assert difference_checks(["score"], sequences(2), {"score": np.arange(2, dtype=np.float32)}) == []
