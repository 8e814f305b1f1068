"""Budgets in words and numbers, what is measured against them, and `verify` of quantized bundles."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from conversations import ragged_records
from rmexport import ExportOptions, VerificationError, export
from rmexport.cli import main
from rmexport.errors import OptionError
from rmexport.verify.options import VerifyOptions
from rmexport.verify.quality import LEVELS, Budget, measure_quality, quality_checks, read_budget
from rmexport.verify.report import table
from rmexport.verify.run import verify
from tiny_checkpoints import TinyShape, gated, sequence_classifier

SHAPE = TinyShape(max_position_embeddings=2048, num_hidden_layers=2)
FEW = VerifyOptions(conversations=24, device="ort-cpu")


def test_levels_and_numbers() -> None:
    assert read_budget("strict") == LEVELS["strict"]
    assert read_budget("spearman=0.97, flips=0.02") == Budget(error=LEVELS["normal"].error, spearman=0.97, flips=0.02)
    assert LEVELS["strict"].flips < LEVELS["normal"].flips < LEVELS["loose"].flips


@pytest.mark.parametrize(
    ("text", "fault"),
    [("good", "'' is no number"), ("flips=2", "2 is not between 0 and 1"), ("rank=0.9", "it names rank"), ("", "''")],
)
def test_budgets_that_cannot_be_meant(text: str, fault: str) -> None:
    with pytest.raises(OptionError, match=f"--quality is {text!r}: .*{fault}.*strict, normal, loose"):
        read_budget(text)


def test_what_is_measured() -> None:
    """Four scores: two of the six pairs change their order, one of them by more than the engine's own error."""
    reference = np.array([0.0, 1.0, 2.0, 2.5])
    unquantized = reference + np.array([0.1, 0.0, 0.2, 0.0])  # 0.1, 1, 2.2, 2.5: noise 0.4
    engine = np.array([1.1, 1.0, 2.6, 2.5])
    found = measure_quality("score", engine, unquantized, reference, [])
    assert (found.pairs, found.flipped, found.flipped_beyond_noise) == (6, 2, 1)
    assert found.noise == pytest.approx(0.4) and found.largest_error == pytest.approx(1.0)
    assert found.mean_error == pytest.approx(0.35) and found.deviation == pytest.approx(unquantized.std())
    assert found.relative_error == pytest.approx(0.35 / unquantized.std())
    assert found.reference_error == pytest.approx(1.7 / 4) and found.unquantized_error == pytest.approx(0.075)
    pairs = measure_quality("score", engine, unquantized, reference, [(0, 2), (1, 3), (2, 3)])
    assert (pairs.pairs, pairs.flipped, pairs.pairs_of_records) == (3, 1, True)
    checks = quality_checks(pairs, Budget(error=1.0, spearman=0.5, flips=0.3))
    assert [check.passed for check in checks] == [True, True, False]
    assert checks[2].measured == "33.33% (1 of 3; 0 beyond noise)"


def test_scores_that_do_not_vary_have_no_relative_error_unless_they_err() -> None:
    flat = np.ones(3)
    assert measure_quality("score", flat, flat, flat, []).relative_error == 0
    assert measure_quality("score", flat + 1, flat, flat, []).relative_error == float("inf")


def test_a_quantized_bundle_is_judged_by_the_budget(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Against the 16-bit engine, which is exported beside it and leaves nothing behind."""
    folder = gated(tmp_path / "c", SHAPE, dtype=torch.bfloat16).folder
    assert main(["export", str(folder), str(tmp_path / "b"), "--quantize", "int4"]) == 0
    arguments = ["verify", str(tmp_path / "b"), "--checkpoint", str(folder), "--conversations", "24"]
    assert main([*arguments, "--quality", "error=0.9,spearman=0.5,flips=0.5"]) == 0
    shown = capsys.readouterr().out
    assert "bf16 bundle with int4 layers" in shown and "PASSED" in shown
    assert "against the bf16 bundle of the same checkpoint" in shown
    assert {path.name for path in tmp_path.iterdir()} == {"b", "c"}
    stored = json.loads((tmp_path / "b" / "parity.json").read_text())
    assert (stored["passed"], stored["quantized"], len(stored["checks"])) == (True, "int4", 3)
    [quality] = stored["quality"]
    assert quality["pairs"] == 276 and quality["mean_error"] > 0
    assert main([*arguments, "--quality", "error=0"]) == 1
    assert "FAILED" in capsys.readouterr().out


def test_given_counterparts(tmp_path: Path) -> None:
    folder = str(sequence_classifier(tmp_path / "c", SHAPE).folder)
    export(folder, tmp_path / "q", ExportOptions(dtype="bf16", quantize="int8"))
    export(folder, tmp_path / "b", ExportOptions(dtype="bf16"))
    export(folder, tmp_path / "fp32")
    found = {
        against: verify(tmp_path / "q", folder, replace(FEW, quality="loose", against=against))
        for against in (None, str(tmp_path / "b"), "reference")
    }
    own, given, reference = found.values()
    assert own.passed and own.quality == given.quality, table(own)
    assert reference.against == "transformers in fp32" and reference.quality[0].noise == 0
    assert reference.quality[0].mean_error == own.quality[0].reference_error
    for wrong, reason in (("q", "is quantized too"), ("fp32", r"in another dtype \(fp32\)")):
        with pytest.raises(VerificationError, match=reason):
            verify(tmp_path / "q", folder, replace(FEW, against=str(tmp_path / wrong)))


def test_pairs_of_records_are_the_pairs(tmp_path: Path) -> None:
    folder = str(sequence_classifier(tmp_path / "c", SHAPE).folder)
    export(folder, tmp_path / "q", ExportOptions(quantize="int8"))
    answers = ragged_records(8)
    pairs = [
        {"prompt": a["prompt"], "chosen": a["response"], "rejected": b["response"]}
        for a, b in zip(answers[::2], answers[1::2], strict=True)
    ]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(record) + "\n" for record in pairs))
    report = verify(tmp_path / "q", folder, VerifyOptions(data=str(tmp_path / "d.jsonl"), quality="loose"))
    assert (report.quality[0].pairs, report.quality[0].pairs_of_records) == (4, True)


def test_the_options_are_about_quantized_bundles(tmp_path: Path) -> None:
    folder = str(sequence_classifier(tmp_path / "c", SHAPE).folder)
    export(folder, tmp_path / "b")
    with pytest.raises(OptionError, match="--quality is about quantized bundles"):
        verify(tmp_path / "b", folder, replace(FEW, quality="strict"))
    with pytest.raises(OptionError, match="--quality is 'best'"):
        VerifyOptions(quality="best")
