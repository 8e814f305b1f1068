"""`verify`: passes good bundles, fails spoiled ones with exit status 1, and leaves its measurements in the bundle."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoTokenizer

from conversations import messages_of, ragged_records
from rmexport import ExportOptions, VerificationError, export
from rmexport.checkpoint import open_checkpoint
from rmexport.cli import main
from rmexport.spec import read_spec
from rmexport.verify.options import VerifyOptions
from rmexport.verify.reference import reference_scores
from rmexport.verify.report import table
from rmexport.verify.run import verify
from rmruntime.sequences import TokenSequence
from tiny_checkpoints import TinyShape, causal_lm, gated, sequence_classifier

FEW = VerifyOptions(conversations=24, device="ort-cpu")  # which loads faster than OpenVINO
MANY = VerifyOptions(conversations=128)  # the 16-bit rules are about a mean and a rank: 24 leave them to chance


@pytest.mark.parametrize("dtype", ["fp32", "bf16", pytest.param("fp16", marks=pytest.mark.ladder)])
def test_good_bundles_pass(tmp_path: Path, dtype: str) -> None:
    folder = gated(tmp_path / "c", TinyShape(max_position_embeddings=2048)).folder
    export(str(folder), tmp_path / "b", ExportOptions(dtype=dtype))  # type: ignore[arg-type] # parametrized
    report = verify(tmp_path / "b", str(folder), MANY)
    assert report.passed, table(report)
    assert report.sequences == 128 and report.dtype == dtype
    stored = json.loads((tmp_path / "b" / "parity.json").read_text())
    assert stored["passed"] and stored["digest"] and stored["versions"]["transformers"]
    golden = [json.loads(line) for line in (tmp_path / "b" / "golden.jsonl").read_text().splitlines()]
    assert len(golden) == 128 and set(golden[0]["expected"]) == {"score", "rewards", "gating"}


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    folder = sequence_classifier(tmp_path / "c", TinyShape(max_position_embeddings=256)).folder
    export(str(folder), tmp_path / "b")
    report = verify(tmp_path / "b", str(folder), FEW)
    assert 0 < report.sequences < 24 and report.sequences + report.left_out == 24
    assert f"left out: {report.left_out} built-in conversations longer than the model's limit" in table(report)


def test_the_report_says_which_engine_and_why(tmp_path: Path) -> None:
    folder = sequence_classifier(tmp_path / "c").folder
    export(str(folder), tmp_path / "b")
    report = verify(tmp_path / "b", str(folder), VerifyOptions(conversations=2, device="ort-cpu"))
    assert "engine ort-cpu, because it was asked for by name" in table(report).splitlines()
    assert json.loads((tmp_path / "b" / "parity.json").read_text())["engine_reason"] == report.engine_reason


def test_golden_conversations_can_be_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = sequence_classifier(tmp_path / "c", TinyShape(max_position_embeddings=2048)).folder
    export(str(folder), tmp_path / "b")
    verify(tmp_path / "b", str(folder), FEW)
    assert main(["score", str(tmp_path / "b"), str(tmp_path / "b" / "golden.jsonl")]) == 0
    found = [json.loads(line)["score"] for line in capsys.readouterr().out.splitlines()]
    golden = [json.loads(line) for line in (tmp_path / "b" / "golden.jsonl").read_text().splitlines()]
    np.testing.assert_allclose(found, [g["expected"]["score"][0] for g in golden], atol=1e-4)


def test_process_models_are_compared_as_logits(tmp_path: Path) -> None:
    folder = causal_lm(tmp_path / "c", TinyShape(max_position_embeddings=2048), dtype=torch.bfloat16).folder
    export(str(folder), tmp_path / "b", ExportOptions(recipe="rlhflow-prm"))
    report = verify(tmp_path / "b", str(folder), FEW)
    assert report.passed and report.reads > report.sequences
    assert all("logit" in check.name for check in report.checks)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_wrong_weight_fails(tmp_path: Path, dtype: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The bundle is made from a checkpoint with one transposed matrix; the reference has the right one."""
    good = sequence_classifier(tmp_path / "c", TinyShape(max_position_embeddings=2048)).folder
    tensors = load_file(good / "model.safetensors")
    original = dict(tensors)
    tensors["model.layers.1.self_attn.q_proj.weight"] = tensors["model.layers.1.self_attn.q_proj.weight"].T.copy()
    save_file(tensors, good / "model.safetensors")
    assert main(["export", str(good), str(tmp_path / "b"), "--dtype", dtype]) == 0
    save_file(original, good / "model.safetensors")
    arguments = ["verify", str(tmp_path / "b"), "--checkpoint", str(good), "--conversations", "24"]
    assert main(arguments) == 1
    assert "FAILED" in capsys.readouterr().out
    assert not json.loads((tmp_path / "b" / "parity.json").read_text())["passed"]


def test_fp16_overflow_is_named_with_its_layer(tmp_path: Path) -> None:
    checkpoint = sequence_classifier(tmp_path / "c", TinyShape(max_position_embeddings=2048))
    with torch.no_grad():
        for part in ("gate_proj", "up_proj"):
            getattr(checkpoint.model.model.layers[1].mlp, part).weight.mul_(120)
    checkpoint.model.save_pretrained(checkpoint.folder)
    export(str(checkpoint.folder), tmp_path / "b", ExportOptions(dtype="fp16"))
    report = verify(tmp_path / "b", str(checkpoint.folder), FEW)
    assert not report.passed
    overflow = next(check for check in report.checks if "layers.1" in check.name)
    assert not overflow.passed and "bf16" in overflow.required


def test_another_checkpoint_is_refused(tmp_path: Path) -> None:
    export(str(sequence_classifier(tmp_path / "c").folder), tmp_path / "b")
    other = sequence_classifier(tmp_path / "other", TinyShape(num_hidden_layers=2)).folder
    with pytest.raises(VerificationError, match=r"model\.safetensors"):
        verify(tmp_path / "b", str(other), FEW)


def test_data_of_ones_own(tmp_path: Path) -> None:
    folder = sequence_classifier(tmp_path / "c").folder
    export(str(folder), tmp_path / "b")
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(r) + "\n" for r in ragged_records(5)))
    assert verify(tmp_path / "b", str(folder), VerifyOptions(data=str(data))).sequences == 5
    data.write_text('{"prompt": "a"}\n')
    with pytest.raises(VerificationError, match="record 0"):
        verify(tmp_path / "b", str(folder), VerifyOptions(data=str(data)))
    data.write_text("")
    with pytest.raises(VerificationError, match="no records"):
        verify(tmp_path / "b", str(folder), VerifyOptions(data=str(data)))


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_the_layerwise_reference_is_transformers(tmp_path: Path, dtype: str) -> None:
    """What the whole model gives, head included."""
    checkpoint = sequence_classifier(tmp_path / "c")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder)
    torch_dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    whole = type(checkpoint.model).from_pretrained(checkpoint.folder, dtype=torch_dtype).eval()
    sequences, expected = [], []
    for record in ragged_records(6):
        text = tokenizer.apply_chat_template(messages_of(record), tokenize=False)
        ids = np.array(tokenizer(text, add_special_tokens=False)["input_ids"])
        sequences.append(TokenSequence(ids=ids, reads={"score": np.array([len(ids) - 1])}))
        with torch.inference_mode():
            expected.append(whole(torch.from_numpy(ids)[None]).logits.float().item())
    source = open_checkpoint(str(checkpoint.folder))
    found = reference_scores(source, read_spec(source, ExportOptions()), sequences, dtype)
    np.testing.assert_allclose(found.outputs["score"], expected, rtol=1e-6)  # the head's rows are multiplied together
    assert len(found.peaks) == 3 and all(peak.magnitude > 0 for peak in found.peaks)


def test_the_precision_asked_for_is_the_one_that_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = sequence_classifier(tmp_path / "c", TinyShape(max_position_embeddings=2048)).folder
    export(str(folder), tmp_path / "b", ExportOptions(dtype="bf16"))
    arguments = ["verify", str(tmp_path / "b"), "--checkpoint", str(folder), "--conversations", "8", "--json"]
    assert main([*arguments, "--precision", "fp32"]) in (0, 1)  # eight say little about a mean
    assert json.loads(capsys.readouterr().out)["precision"] == "fp32"
    assert main([*arguments, "--device", "ort-cpu", "--precision", "bf16"]) == 2
    assert "ort-cpu cannot compute this bf16 bundle with precision 'bf16'" in capsys.readouterr().err
