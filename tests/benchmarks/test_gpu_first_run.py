"""first_run.py: steps that end in time and keep what they measured, and wheels cut to what one GPU needs."""

import json
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bench_gpu
import pytest
from gpu import cut_architectures, first_run, pack_wheels, parts
from gpu.children import Budget, ChildFailed, OutOfTime
from gpu.first_run import LIMIT_S, STEPS, FirstRun, Piece
from gpu.parts import PartsMissing
from gpu.plan import FULL, REHEARSAL

CODE = {80: b"a" * 64, 86: b"b" * 48, 90: b"c" * 80, 100: b"d" * 32}


def library(code: Mapping[int, bytes]) -> bytes:
    """An ELF file with one container of CUDA code, after a section of names."""
    images = b""
    for architecture, payload in code.items():
        header = bytearray(64)
        struct.pack_into("<HHIQ", header, 0, 2, 0x101, len(header), len(payload))
        struct.pack_into("<I", header, 28, architecture)
        images += bytes(header) + payload
    fatbin = bytes(8) + cut_architectures.MAGIC + struct.pack("<HHQ", 1, 16, len(images)) + images
    names = b"\0.shstrtab\0.nv_fatbin\0"
    begin = 64
    sections = [(0, 0, 0), (1, begin, len(names)), (11, begin + len(names), len(fatbin))]
    table = b"".join(struct.pack("<IIQQQQIIQQ", n, 1, 0, 0, offset, size, 0, 0, 1, 0) for n, offset, size in sections)
    header = bytearray(begin)
    header[:5] = b"\x7fELF\x02"
    struct.pack_into("<Q", header, 0x28, begin + len(names) + len(fatbin))
    struct.pack_into("<HHH", header, 0x3A, 64, len(sections), 1)
    return bytes(header) + names + fatbin + table


def test_code_of_other_gpus_is_cut_out_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "provider.so"
    whole = library(CODE)
    path.write_bytes(whole)
    assert cut_architectures.sizes(path) == {architecture: len(code) for architecture, code in CODE.items()}
    taken = cut_architectures.cut(path, (9, 0))
    found = path.read_bytes()
    assert len(found) == len(whole) and [len(code) for _, code in taken] == [64, 48, 32]
    assert [code in found for code in CODE.values()] == [False, False, True, False]
    assert cut_architectures.sizes(path) == cut_architectures.sizes(path)
    cut_architectures.restore(path, taken)
    assert path.read_bytes() == whole


def test_a_library_that_would_have_no_code_left_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "provider.so"
    path.write_bytes(library(CODE))
    with pytest.raises(ValueError, match=r"code for 80, 86, 90, 100, and none for compute capability \(7, 5\)"):
        cut_architectures.cut(path, (7, 5))
    for content, message in ((b"text", "no library in ELF"), (library({}).replace(b".nv_", b".no_"), "has no section")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            cut_architectures.sizes(path)


def test_parts_are_small_and_their_loss_is_noticed(tmp_path: Path) -> None:
    folder, out, work = tmp_path / "folder", tmp_path / "out", tmp_path / "work"
    (folder / "sub").mkdir(parents=True)
    out.mkdir()
    (folder / "sub" / "noise").write_bytes(bytes(range(256)) * 40)
    paths = parts.pack(folder, "site", out, most=100)
    assert len(paths) > 1 and all(path.stat().st_size <= 100 for path in paths)
    with pytest.raises(PartsMissing, match="store the list"):
        parts.unpack("site", work, tmp_path / "again")
    parts.store([out / parts.LIST, paths[0]], work)
    with pytest.raises(PartsMissing, match=r"missing: site\.001"):
        parts.unpack("site", work, tmp_path / "again")
    parts.store(paths[1:], work)
    parts.unpack("site", work, tmp_path / "again")
    assert (tmp_path / "again" / "sub" / "noise").read_bytes() == (folder / "sub" / "noise").read_bytes()
    (work / "site.000").write_bytes(b"")
    with pytest.raises(PartsMissing, match=r"missing: none; damaged: site\.000"):
        parts.unpack("site", work, tmp_path / "again")


def test_wheels_become_parts_and_can_be_made_whole(tmp_path: Path) -> None:
    import zipfile

    (tmp_path / "wheels").mkdir()
    with zipfile.ZipFile(tmp_path / "wheels" / "onnxruntime_gpu-1-cp312.whl", "w") as wheel:
        wheel.writestr(pack_wheels.LIBRARY, library(CODE))
        wheel.writestr("onnxruntime/__init__.py", "")
        wheel.writestr("onnxruntime/capi/libonnxruntime.so.1", "unused")
        wheel.writestr("onnxruntime/transformers/__init__.py", "unused")
    out = tmp_path / "out"
    out.mkdir()
    found = pack_wheels.pack(tmp_path / "wheels", tmp_path / "work", out, (9, 0), 1000)
    assert found["code_bytes"] == {80: 64, 86: 48, 90: 80, 100: 32}
    site, code = tmp_path / "site", tmp_path / "code"
    parts.unpack("site", out, site)
    names = {str(path.relative_to(site)) for path in site.rglob("*") if path.is_file()}
    assert names == {pack_wheels.LIBRARY, "onnxruntime/__init__.py"}
    assert (site / pack_wheels.LIBRARY).read_bytes() != library(CODE)
    parts.unpack("restore", out, code)
    pack_wheels.restore(code, site)
    assert (site / pack_wheels.LIBRARY).read_bytes() == library(CODE)


def test_every_step_fits_into_a_call_and_all_of_them_into_the_half_hour() -> None:
    seconds = {name: limit for name, (limit, _) in STEPS.items()}
    assert list(seconds) == ["A", "B", "C", "D", "E", "F", "restore"]
    assert all(limit < LIMIT_S for limit in seconds.values())
    assert sum(seconds[name] for name in "ABCDEF") <= 1800
    assert all(piece.seconds < limit for limit, pieces in STEPS.values() for piece in pieces)


def test_what_was_measured_is_kept_whatever_comes_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Any] = []

    def piece(what: Any) -> Any:
        def run(given: FirstRun, budget: Budget) -> Any:
            seen.append(json.loads(file.read_text())["A"] if file.exists() else {})
            assert budget.left <= 5
            if isinstance(what, Exception):
                raise what
            return what

        return run

    file = tmp_path / "out" / "first-run.json"
    errors = [ChildFailed("its last words"), ValueError("odd"), OutOfTime()]
    pieces = [Piece(str(i), 5, piece(what)) for i, what in enumerate([{"x": 1}, *errors, {"passed": False}])]
    monkeypatch.setattr(first_run, "STEPS", {"A": (60, pieces), "B": (0, pieces), "C": (60, pieces[:1])})
    run = FirstRun(tmp_path / "work", tmp_path / "out", FULL)
    assert not run.step("A")
    found = json.loads(file.read_text())["A"]
    assert [found[p.name]["status"] for p in pieces] == ["ok", "failed", "failed", "out of time", "failed"]
    assert found["0"]["found"] == {"x": 1} and found["1"]["message"] == "its last words"
    assert found["2"]["message"] == "ValueError: odd"
    assert [len(record) for record in seen] == [0, 1, 2, 3, 4]  # each was written before the next began
    assert not FirstRun(tmp_path / "work", tmp_path / "out", FULL).step("B")
    assert FirstRun(tmp_path / "work", tmp_path / "out", FULL).step("C")
    records = json.loads(file.read_text())
    assert list(records) == ["A", "B", "C"] and records["B"]["0"]["status"] == "out of time"
    assert 'A 0: {"status": "ok"' in capsys.readouterr().out


@pytest.mark.parametrize("plan", [FULL, REHEARSAL], ids=lambda plan: plan.name)
def test_sections_are_asked_of_the_benchmark_as_it_takes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: Any
) -> None:
    """Every command parses, ends before its piece must, and its figures are those of the run."""
    run, parsed = FirstRun(tmp_path / "work", tmp_path / "out", plan), []

    def start(command: list[str], **how: Any) -> Any:
        monkeypatch.setattr(sys, "argv", command[1:])
        arguments = bench_gpu._parse()
        assert arguments.budget_seconds < how["timeout"] and arguments.rehearse == (plan is REHEARSAL)
        parsed.append(arguments.sections)
        arguments.json.write_text('{"messages": {}}')
        return SimpleNamespace(returncode=0, stdout="table", stderr="")

    monkeypatch.setattr(subprocess, "run", start)
    for _, pieces in STEPS.values():
        for piece in pieces:
            if "run_sections" in piece.run.__qualname__:
                assert piece.run(run, Budget(piece.seconds))["printed"] == "table"
    assert parsed == [["parity"], ["probes"], ["throughput"], ["big-parity"], ["load"], ["latency"]]
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=2, stdout="", stderr="no GPU"))
    with pytest.raises(ChildFailed, match="no GPU"):
        STEPS["F"][1][0].run(run, Budget(60))


def test_the_steps_are_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("PYTHONPATH", "LD_LIBRARY_PATH"):
        monkeypatch.setenv(variable, "")  # restored afterwards
    part = tmp_path / "site.000"
    part.write_bytes(b"x")
    monkeypatch.setattr(sys, "argv", ["first_run.py", "store", str(part), "--work", str(tmp_path / "work")])
    assert first_run.main() == 0 and (tmp_path / "work" / "site.000").read_bytes() == b"x"
    asked = []
    monkeypatch.setattr(FirstRun, "step", lambda run, name: asked.append((name, run.plan.name, run.out)) or name == "A")
    for step, status in (("A", 0), ("B", 1)):
        monkeypatch.setattr(sys, "argv", ["first_run.py", step, "--work", str(tmp_path / "work"), "--rehearse"])
        assert first_run.main() == status
    assert asked == [(step, "rehearsal", tmp_path / "work" / "out") for step in "AB"]
