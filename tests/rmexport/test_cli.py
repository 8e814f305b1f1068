"""The command line: exit statuses, messages on stderr, JSON on request."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rmexport.cli import main
from tiny_checkpoints import causal_lm, gated, sequence_classifier


def test_inspect_a_checkpoint_and_a_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(gated(tmp_path / "c", dtype=torch.bfloat16).folder)
    assert main(["inspect", folder]) == 0
    printed = capsys.readouterr().out
    assert "gated_objectives" in printed and "tiny-helpful" in printed and "pattern_start" in printed
    assert main(["inspect", folder, "--json", "--check", "full"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["family"], facts["dtype"], facts["not_finite"]) == ("llama", "bf16", [])
    assert main(["export", folder, str(tmp_path / "b")]) == 0
    assert "gated_objectives head, bf16" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "b"), "--json", "--check", "full"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "bundle"


def test_inspect_finds_weights_that_are_not_finite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = sequence_classifier(tmp_path / "c").folder
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")
    tensors["score.weight"][0, 0] = float("inf")
    save_file(tensors, folder / "model.safetensors")
    assert main(["inspect", str(folder), "--check", "full"]) == 1
    printed = capsys.readouterr().out
    assert "model.layers.1.mlp.up_proj.weight" in printed and "score.weight" in printed
    assert main(["export", str(folder), str(tmp_path / "b"), "--dtype", "bf16"]) == 2
    message = capsys.readouterr().err
    assert "up_proj" in message and "score.weight" in message and not (tmp_path / "b").exists()


def test_errors_are_one_message_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(causal_lm(tmp_path / "c").folder)
    for arguments, words in (
        (["export", str(tmp_path / "nothing"), str(tmp_path / "b")], "nothing"),
        (["export", folder, str(tmp_path / "b")], "--recipe"),
        (["export", folder, str(tmp_path / "b"), "--recipe", "rlhflow-omr"], "did you mean"),
        (["inspect", str(tmp_path)], "config.json"),
        (["verify", str(tmp_path), "--checkpoint", folder], "manifest.json"),
    ):
        capsys.readouterr()
        assert main(arguments) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith("error: ") and words in captured.err and captured.out == ""


def test_recipes_lists_every_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    printed = capsys.readouterr().out
    assert "rlhflow-prm" in printed and "RLHFlow/Llama3.1-8B-PRM-Mistral-Data" in printed


def test_export_and_inspect_need_neither_torch_nor_transformers(tmp_path: Path) -> None:
    folder = gated(tmp_path / "c").folder
    script = (
        "import sys\nfrom rmexport.cli import main\n"
        f"assert main(['inspect', {str(folder)!r}]) == 0\n"
        f"assert main(['export', {str(folder)!r}, {str(tmp_path / 'b')!r}, '--dtype', 'fp16']) == 0\n"
        "heavy = {'torch', 'transformers', 'onnxruntime'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)


def test_scoring_needs_no_exporter(tmp_path: Path) -> None:
    folder = gated(tmp_path / "c").folder
    assert main(["export", str(folder), str(tmp_path / "b")]) == 0
    source = tmp_path / "in.jsonl"
    source.write_text('{"prompt": "a", "response": "b"}\n')
    script = (
        "import sys\nfrom rmruntime.cli import main\n"
        f"assert main(['score', {str(tmp_path / 'b')!r}, {str(source)!r}]) == 0\n"
        "heavy = {'torch', 'transformers', 'onnx', 'rmexport'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)


def test_verify_without_its_extra_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("rmexport.verify.run", "rmexport.verify.reference"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert main(["verify", str(tmp_path), "--checkpoint", "c"]) == 2
    assert "pip install 'rmexport[verify]'" in capsys.readouterr().err


def test_commands_heed_signals_before_they_import_anything() -> None:
    """Ctrl-C in the middle of an import is a traceback; what is imported by then is Python's own, and light."""
    for package in ("rmexport", "rmruntime"):
        script = (
            f"import sys\nbefore = set(sys.modules)\nfrom {package}.cli import main\n"
            "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
        )
        found = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
        assert set(found.split()) <= {"rmexport", "rmruntime", "__future__", "_signal", "importlib", "warnings"}
