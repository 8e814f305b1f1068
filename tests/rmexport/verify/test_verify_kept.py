"""`verify` with kept scores: another engine, precision or scheme waits for its own scores alone, and none changes."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from rmexport import ExportOptions, VerificationError, export
from rmexport.cli import main
from rmexport.verify.options import VerifyOptions
from rmexport.verify.reference import DecoderReference
from rmexport.verify.reference_backbone import LayerPeak, largest
from rmexport.verify.reference_pass import Meter
from rmexport.verify.report import Report, table
from rmexport.verify.run import verify
from tiny_checkpoints import TinyShape, sequence_classifier

SHAPE = TinyShape(num_hidden_layers=2, max_position_embeddings=2048)
WRITTEN = ("parity.json", "golden.jsonl")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bf16 checkpoint `c` and bundles of it."""
    folder = tmp_path_factory.mktemp("kept")
    checkpoint = str(sequence_classifier(folder / "c", SHAPE, dtype=torch.bfloat16).folder)
    export(checkpoint, folder / "bf16")
    export(checkpoint, folder / "fp32", ExportOptions(dtype="fp32"))
    for scheme in ("int8", "int4"):
        export(checkpoint, folder / scheme, ExportOptions(quantize=scheme))
    return folder


def run(place: Path, cache: Path | str, bundle: str = "bf16", **options: Any) -> Report:
    chosen = {"conversations": 8, "device": "ort-cpu", "reference_cache": str(cache)} | options
    return verify(place / bundle, str(place / "c"), VerifyOptions(**chosen))


def origins(report: Report) -> dict[str, tuple[int, int]]:
    return {found.dtype: (found.computed, found.kept) for found in report.references}


def written(bundle: Path) -> list[bytes]:
    return [(bundle / name).read_bytes() for name in WRITTEN]


def test_what_is_written_is_the_same(place: Path, tmp_path: Path) -> None:
    """Computed, kept, partly kept and without a cache: byte by byte."""
    found = {}
    run(place, tmp_path / "part", conversations=3)
    for name, cache in (
        ("anew", tmp_path / "a"),
        ("kept", tmp_path / "a"),
        ("part", tmp_path / "part"),
        ("off", "off"),
    ):
        report = run(place, cache)
        found[name] = (origins(report), written(place / "bf16"), report.checks, report.peak_magnitude)
    assert [one[0] for one in found.values()] == [
        {"fp32": (8, 0), "bf16": (8, 0)},
        {"fp32": (0, 8), "bf16": (0, 8)},
        {"fp32": (5, 3), "bf16": (5, 3)},
        {"fp32": (8, 0), "bf16": (8, 0)},
    ]
    assert all(one[1:] == found["anew"][1:] for one in found.values())
    assert "references" not in json.loads(found["kept"][1][0])


def test_an_engine_a_precision_and_a_dtype_share_them(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(place, tmp_path)
    monkeypatch.setattr(DecoderReference, "states", lambda *arguments: pytest.fail("computed again"))
    assert origins(run(place, tmp_path, device="openvino")) == {"fp32": (0, 8), "bf16": (0, 8)}
    assert origins(run(place, tmp_path, device="openvino", precision="fp32")) == {"fp32": (0, 8), "bf16": (0, 8)}
    assert origins(run(place, tmp_path, bundle="fp32")) == {"fp32": (0, 8)}
    for scheme in ("int8", "int4"):  # the same reference in fp32, and no other
        against = str(place / "bf16")
        report = run(place, tmp_path, bundle=scheme, against=against, quality="error=1,spearman=0,flips=1")
        assert origins(report) == {"fp32": (0, 8)}


def test_peaks_are_kept(place: Path, tmp_path: Path) -> None:
    first, second = (run(place, tmp_path) for _ in range(2))
    assert origins(second)["fp32"] == (0, 8)
    assert (first.peak_layer, first.peak_magnitude) == (second.peak_layer, second.peak_magnitude)
    assert first.peak_layer is not None


def test_peaks_by_sequence_are_those_of_all() -> None:
    peaks = largest([{"a": 1.0, "b": 5.0}, {"a": 3.0, "b": float("nan")}])
    assert peaks[0] == LayerPeak("a", 3.0) and np.isnan(peaks[1].magnitude) and largest([]) == ()


def test_a_changed_checkpoint_is_computed_anew(place: Path, tmp_path: Path) -> None:
    folder = sequence_classifier(tmp_path / "c", SHAPE).folder
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors, folder / "model.safetensors")  # of the size that it will have below
    export(str(folder), tmp_path / "b")
    options = VerifyOptions(conversations=4, device="ort-cpu", reference_cache=str(tmp_path / "k"))

    def found() -> tuple[bool, dict[str, tuple[int, int]]]:
        report = verify(tmp_path / "b", str(folder), options)
        return report.passed, origins(report)

    assert found() == (True, {"fp32": (4, 0)}) and found() == (True, {"fp32": (0, 4)})
    name = "model.layers.1.self_attn.q_proj.weight"
    save_file({**tensors, name: tensors[name].T.copy()}, folder / "model.safetensors")
    assert found() == (False, {"fp32": (4, 0)})
    os.utime(folder / "config.json")
    assert found() == (False, {"fp32": (4, 0)})


def test_a_checkpoint_that_changes_while_it_is_read(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = sequence_classifier(tmp_path / "c", SHAPE).folder
    export(str(folder), tmp_path / "b")
    compute = DecoderReference.states

    def meanwhile(self: DecoderReference, *arguments: Any) -> Any:
        os.utime(folder / "model.safetensors", (1, 1))
        return compute(self, *arguments)

    monkeypatch.setattr(DecoderReference, "states", meanwhile)
    options = VerifyOptions(conversations=4, device="ort-cpu", reference_cache=str(tmp_path / "k"))
    with pytest.raises(VerificationError, match="changed while verify read"):
        verify(tmp_path / "b", str(folder), options)
    assert not (tmp_path / "k").exists() and not (tmp_path / "b" / "parity.json").exists()


def test_other_conversations_are_computed(place: Path, tmp_path: Path) -> None:
    run(place, tmp_path / "k")
    data = tmp_path / "d.jsonl"
    data.write_text('{"prompt": "a", "response": "b"}\n')
    assert origins(run(place, tmp_path / "k", data=str(data))) == {"fp32": (1, 0), "bf16": (1, 0)}


def test_spoiled_files_are_computed_anew(place: Path, tmp_path: Path) -> None:
    expected = run(place, tmp_path).checks
    for path in tmp_path.glob("*.states"):
        path.write_bytes(path.read_bytes()[:-9])
    report = run(place, tmp_path)
    assert origins(report) == {"fp32": (8, 0), "bf16": (8, 0)} and report.checks == expected
    assert origins(run(place, tmp_path)) == {"fp32": (0, 8), "bf16": (0, 8)}


def test_what_is_interrupted_is_kept(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compute, passes = DecoderReference.states, []

    def interrupted(self: DecoderReference, sequences: Any, dtype: str, meter: Meter) -> Any:
        passes.append(dtype)
        if len(passes) == 3:  # after the first few of either dtype
            raise KeyboardInterrupt
        return compute(self, sequences, dtype, meter)

    arguments = [
        "verify", str(place / "bf16"), "--checkpoint", str(place / "c"), "--conversations", "8",
        "--reference-cache", str(tmp_path / "k"), "--device", "ort-cpu",
    ]  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(DecoderReference, "states", interrupted)
        assert main(arguments) == 130
    message = capsys.readouterr().err
    assert f"of 8 conversations are kept in {tmp_path / 'k'}: run the same command again to continue" in message
    assert main([*arguments, "--json"]) in (0, 1)
    found = json.loads(capsys.readouterr().out)["references"]
    assert [(one["computed"], one["kept"]) for one in found] == [(4, 4), (4, 4)]


def test_the_command_says_where_they_came_from(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "verify", str(place / "bf16"), "--checkpoint", str(place / "c"), "--conversations", "8", "--device", "ort-cpu",
        "--reference-cache",
    ]  # fmt: skip
    for cache, words in ((tmp_path, "computed now"), (tmp_path, "kept since 2"), ("off", "computed now")):
        assert main([*arguments, str(cache)]) in (0, 1)
        [line] = [x for x in capsys.readouterr().out.splitlines() if x.startswith("transformers' scores: ")]
        assert line.count(words) == 2 and ": fp32 8" in line and "; bf16 8" in line
    (tmp_path / "file").write_text("")
    assert main([*arguments, str(tmp_path / "file")]) == 2
    assert "give a folder, or 'off'" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_a_note(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    arguments = [
        "verify", str(place / "fp32"), "--checkpoint", str(place / "c"), "--conversations", "8", "--device", "ort-cpu",
        "--reference-cache", str(tmp_path / "file" / "below"),
    ]  # fmt: skip
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert captured.err.count("note: the reference's scores are not kept") == 1 and "PASSED" in captured.out


def test_python_users_are_told_nothing_unless_they_ask(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(place, tmp_path / "k")
    (tmp_path / "file").write_text("")
    report = run(place, tmp_path / "file" / "below")
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == "" and "computed now" in table(report)


def test_the_default_is_the_users_cache_folder(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    verify(place / "fp32", str(place / "c"), VerifyOptions(conversations=2, device="ort-cpu"))
    assert len(list((tmp_path / "rmexport" / "reference").glob("*.states"))) == 1
