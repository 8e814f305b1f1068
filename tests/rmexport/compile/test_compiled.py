"""What compile leaves in the bundle, what it refuses, and its command line."""

import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rmexport.cli import main
from rmexport.compile import (
    CompilationFailed,
    CompileOptions,
    CompilerNotInstalled,
    NotCompilable,
    compile_bundle,
    resource_check,
)
from rmexport.compile import compiled as recipe
from rmexport.compile import device as devices
from rmexport.compile import library as libraries
from rmexport.compile.device import TargetDevice, engine_name, find_device
from rmexport.compile.library import Library, find_library
from rmexport.errors import OptionError, TargetExists, WriteError
from rmruntime.bundle import Bundle
from rmruntime.bundle.bundle import file_sha256
from rmruntime.bundle.engine_record import ENGINE_NAME, RECORD_NAME, engine_folders, manifest_digest, read_record
from rmruntime.devices.cuda_driver import CudaDevice
from rmruntime.errors import EngineUnusable

FOR_ADA = CompileOptions(compute_capability="8.9", max_batch_tokens=1024, max_length=512)
H200 = CudaDevice(index=0, name="NVIDIA H200", compute_capability=(9, 0), total_memory=141 << 30)


def no_device(index: int) -> CudaDevice:
    raise EngineUnusable("no NVIDIA driver was found")


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Iterator[Path]:
    """A bundle of this test's own."""
    shutil.copytree(bundle, tmp_path / "b")
    yield tmp_path / "b"
    assert Bundle.open(tmp_path / "b", check="full")  # whatever happened


def files_of(bundle: Path) -> set[str]:
    return {path.relative_to(bundle).as_posix() for path in bundle.rglob("*")}


def test_engine_and_record(rtx: Library, copy: Path) -> None:
    manifest = (copy / "manifest.json").read_bytes()
    phases: dict[str, tuple[int, int]] = {}
    made = compile_bundle(copy, FOR_ADA, lambda phase, done, total: phases.update({phase: (done, total)}))
    assert made.folder == copy / "engines" / "tensorrt" / f"sm89-tensorrt_rtx-{rtx.version.rpartition('.')[0]}"
    assert engine_folders(copy, "tensorrt") == (made.folder,)
    assert read_record(made.folder / RECORD_NAME) == made.record
    assert files_of(made.folder) == {ENGINE_NAME, RECORD_NAME}
    record = made.record
    assert (record.library, record.version, record.compute_capability) == ("tensorrt_rtx", rtx.version, "8.9")
    assert record.manifest == manifest_digest(copy)
    assert record.sha256 == file_sha256(made.folder / ENGINE_NAME)
    assert (record.graph, record.compute_dtype, record.batch_tokens) == ("portable.bf16.packed.onnx", "bf16", 1024)
    assert record.profiles[1].dimensions["T"].tuned == record.profiles[1].dimensions["T"].most == 1024
    assert (copy / "manifest.json").read_bytes() == manifest
    assert phases["Building engine"][0] == phases["Building engine"][1] > 0


def test_an_engine_is_replaced_only_where_that_is_asked_for(rtx: Library, copy: Path) -> None:
    other = copy / "engines" / "tensorrt" / "sm90-other"
    other.mkdir(parents=True)
    (other / ENGINE_NAME).write_bytes(b"kept")
    first = compile_bundle(copy, FOR_ADA)
    with pytest.raises(TargetExists, match="replace the engine with --overwrite"):
        compile_bundle(copy, FOR_ADA)
    again = CompileOptions(compute_capability="8.9", max_batch_tokens=512, max_length=512, overwrite=True)
    assert compile_bundle(copy, again).folder == first.folder
    assert read_record(first.folder / RECORD_NAME).batch_tokens == 512
    assert {path.name for path in (copy / "engines" / "tensorrt").iterdir()} == {other.name, first.folder.name}
    assert (other / ENGINE_NAME).read_bytes() == b"kept"


def test_command_line(rtx: Library, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compile", str(copy), "--target", "tensorrt", "--compute-capability", "8.6", "--max-length", "64"]
    assert main([*arguments, "--max-batch-tokens", "256"]) == 0
    out, err = capsys.readouterr()
    assert "engines/tensorrt/sm86-tensorrt_rtx-" in out and "sequences of up to 64" in out
    assert "note: the model takes sequences of up to 512 tokens" in out
    assert not err  # no bar where there is no terminal
    assert main(arguments) == 2
    assert "exists already" in capsys.readouterr().err


def test_what_the_parser_refuses_is_said_in_its_words(
    rtx: Library, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator that there is not stands for any that the parser does not know."""
    forms = recipe.parser_model

    def unreadable(path: Path, graph: Any) -> Any:
        model = forms(path, graph)
        node = next(node for node in model.model.graph if node.op_type == "RotaryEmbedding")
        node.op_type = "RotaryEmbedding3000"
        return model

    monkeypatch.setattr(recipe, "parser_model", unreadable)
    before = files_of(copy)
    with pytest.raises(CompilationFailed, match=r"cannot read portable\.bf16.*RotaryEmbedding3000"):
        compile_bundle(copy, FOR_ADA)
    assert files_of(copy) - before == {"engines", "engines/tensorrt"}


def test_an_interrupt_ends_the_build_and_leaves_nothing(rtx: Library, copy: Path) -> None:
    """The library loses what its callbacks raise: it would write on, and call a part of an engine built."""
    handler, told = signal.signal(signal.SIGINT, signal.default_int_handler), []

    def interrupt(phase: str, done: int, total: int) -> None:
        told.append(phase)
        if done == 2:
            signal.raise_signal(signal.SIGINT)

    try:
        with pytest.raises(KeyboardInterrupt):
            compile_bundle(copy, FOR_ADA, interrupt)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, handler)
    assert not list((copy / "engines" / "tensorrt").iterdir())
    assert "Timing tactics" not in told  # it ended where it was told to


def test_what_progress_raises_ends_the_build(rtx: Library, copy: Path) -> None:
    def fail(phase: str, done: int, total: int) -> None:
        raise BrokenPipeError("the terminal has gone")

    with pytest.raises(BrokenPipeError, match="the terminal has gone"):
        compile_bundle(copy, FOR_ADA, fail)
    assert not list((copy / "engines" / "tensorrt").iterdir())


def test_a_full_disk(rtx: Library, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "ENGINE_NAME", "/dev/full")
    with pytest.raises(WriteError, match="/dev/full cannot be written: No space left on device"):
        compile_bundle(copy, FOR_ADA)
    assert not list((copy / "engines" / "tensorrt").iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"tensorrt or tensorrt_rtx is not installed.*rmexport\[tensorrt\]' or.*rmexport\[tensorrt-rtx\]"),
        ({"library": "tensorrt"}, r"tensorrt is not installed.*: pip install 'rmexport\[tensorrt\]'$"),
        ({"compute_capability": "8.9"}, r"tensorrt_rtx is not installed.*: pip install 'rmexport\[tensorrt-rtx\]'$"),
    ],
)
def test_not_installed(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str) -> None:
    monkeypatch.setattr(libraries.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CompilerNotInstalled, match=message):
        find_library(CompileOptions(**options))


def installed(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    """Packages of these versions and no others."""
    monkeypatch.setattr(libraries.importlib.util, "find_spec", lambda name: versions.get(name))
    for name, version in versions.items():
        known = {"SM75": 0, "SM89": 1, "SM120": 2, "CURRENT": 3}
        kinds = SimpleNamespace(__members__=known)
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(__version__=version, ComputeCapability=kinds))


def test_which_library(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, tensorrt="10.15.1.29", tensorrt_rtx="1.7.1.116")
    assert find_library(CompileOptions()).name == "tensorrt"
    assert find_library(CompileOptions(compute_capability="8.9")).name == "tensorrt_rtx"
    assert find_library(CompileOptions(library="tensorrt_rtx")).name == "tensorrt_rtx"
    installed(monkeypatch, tensorrt_rtx="1.7.1.116")
    assert find_library(CompileOptions()).name == "tensorrt_rtx"


def test_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, tensorrt="10.9.0.34")
    with pytest.raises(CompilerNotInstalled, match=r"tensorrt 10\.9\.0\.34 is installed, expected 10\.15 or newer"):
        find_library(CompileOptions())
    installed(monkeypatch, tensorrt="11.2.0.1")
    assert find_library(CompileOptions()).version == "11.2.0.1"


def test_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise OSError("libnvinfer.so.10: cannot open shared object file")

    installed(monkeypatch, tensorrt="10.15.1")
    monkeypatch.setattr(libraries.importlib, "import_module", broken)
    with pytest.raises(CompilerNotInstalled, match=r"tensorrt is installed and cannot be imported \(libnvinfer"):
        find_library(CompileOptions())


def test_the_native_package_compiles_for_the_gpu_that_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, tensorrt="10.15.1.29")
    native = find_library(CompileOptions())
    monkeypatch.setattr(devices, "cuda_device", lambda index: H200)
    found = find_device(native, CompileOptions())
    assert found == TargetDevice(gpu="NVIDIA H200", compute_capability="9.0", memory=141 << 30)
    assert engine_name(native, found) == "sm90-nvidia-h200-tensorrt-10.15.1"
    with pytest.raises(NotCompilable, match="takes no compute capability"):
        find_device(native, CompileOptions(library="tensorrt", compute_capability="9.0"))
    monkeypatch.setattr(devices, "cuda_device", no_device)
    with pytest.raises(NotCompilable, match=r"no NVIDIA driver was found.*--library tensorrt_rtx"):
        find_device(native, CompileOptions())


def test_tensorrt_rtx_compiles_for_what_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, tensorrt_rtx="1.7.1.116")
    library = find_library(CompileOptions())
    monkeypatch.setattr(devices, "cuda_device", no_device)
    found = find_device(library, CompileOptions(compute_capability="12.0"))
    assert engine_name(library, found) == "sm120-tensorrt_rtx-1.7.1"
    with pytest.raises(NotCompilable, match=r"as in --compute-capability 8\.9"):
        find_device(library, CompileOptions())
    monkeypatch.setattr(devices, "cuda_device", lambda index: H200)
    with pytest.raises(
        NotCompilable, match=r"not compile for compute capability 9\.0, only for 7\.5, 8\.9, 12\.0.*nat"
    ):
        find_device(library, CompileOptions())


def test_too_little_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    library = Library("tensorrt", "10.15.1", None)
    device = TargetDevice(gpu="NVIDIA H200", compute_capability="9.0", memory=141 << 30)
    weights, plenty = 16 << 30, 1 << 50
    found = {"memory": plenty, "disk": plenty, "gpu": plenty}
    monkeypatch.setattr(resource_check, "available_memory", lambda: found["memory"])
    monkeypatch.setattr(resource_check, "free_memory", lambda index: found["gpu"])
    monkeypatch.setattr(resource_check.shutil, "disk_usage", lambda folder: SimpleNamespace(free=found["disk"]))
    resource_check.check_room(weights, tmp_path / "engines", library, device)
    found["memory"] = 8 << 30
    with pytest.raises(NotCompilable, match=r"takes about 44\.0 GB of memory, found 8\.6 GB"):
        resource_check.check_room(weights, tmp_path / "engines", library, device)
    found |= {"memory": plenty, "disk": 1 << 30}
    with pytest.raises(NotCompilable, match=r"takes about 17\.3 GB of free space in .*engines, found 1\.1 GB"):
        resource_check.check_room(weights, tmp_path / "engines", library, device)
    found |= {"disk": plenty, "gpu": 10 << 30}
    with pytest.raises(NotCompilable, match=r"takes about 18\.9 GB of free memory of NVIDIA H200, found 10\.7 GB"):
        resource_check.check_room(weights, tmp_path / "engines", library, device)
    resource_check.check_room(weights, tmp_path / "engines", Library("tensorrt_rtx", "1.7", None), device)


def test_a_bundle_without_a_graph_for_it(copy: Path, tmp_path: Path) -> None:
    manifest = Bundle.open(copy).manifest
    graphs = tuple(g for g in manifest.graphs if g.dialect == "ort-cpu")
    only = SimpleNamespace(manifest=SimpleNamespace(graphs=graphs, quantization=None))
    with pytest.raises(NotCompilable, match="reads portable or traced graphs; this bundle has: ort-cpu"):
        recipe._graph(only)  # type: ignore[arg-type] # all that it looks at


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"target": "cuda"}, "target is 'cuda', expected one of tensorrt"),
        ({"library": "trt"}, "library is 'trt', expected one of auto, tensorrt, tensorrt_rtx"),
        ({"max_batch_tokens": 8}, "max_batch_tokens is 8, expected at least 16"),
        ({"max_length": 0}, "max_length is 0"),
        ({"max_sequences": 0}, "max_sequences is 0"),
        ({"compute_capability": "89"}, "compute_capability is '89', expected one such as '8.9'"),
    ],
)
def test_options_that_cannot_be(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        CompileOptions(**fields)
