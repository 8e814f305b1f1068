"""A bundle folder is there whole or not at all, whatever happens while it is written."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rmexport.errors import TargetExists, WriteError
from rmexport.export import new_bundle
from rmexport.output.atomic_folder import new_folder, replace_file, write_file

OLD, NEW = b'{"schema_version": 1, "digest": "old"}', b'{"schema_version": 1, "digest": "new"}'


def make(target: Path, manifest: bytes = NEW, *, overwrite: bool = False) -> None:
    with new_bundle(target, overwrite=overwrite) as folder:
        write_file(folder, "manifest.json", manifest)
        write_file(folder, "a/b.bin", b"12345", role="weights")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_finished_bundle(tmp_path: Path) -> None:
    make(tmp_path / "x" / "bundle")
    assert names(tmp_path / "x") == {"bundle"}
    assert names(tmp_path / "x" / "bundle") == {"manifest.json", "a"}
    assert (tmp_path / "x" / "bundle" / "a" / "b.bin").read_bytes() == b"12345"
    assert (tmp_path / "x" / "bundle").stat().st_mode & 0o777 == 0o777 & ~umask()


def umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value


def test_nothing_is_visible_before_the_end(tmp_path: Path) -> None:
    with new_bundle(tmp_path / "bundle", overwrite=False) as folder:
        assert folder.parent == tmp_path
        assert not (tmp_path / "bundle").exists()
        assert [name.startswith(".bundle.partial-") for name in names(tmp_path)] == [True]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("overwrite", [False, True])
def test_failures_leave_what_was_there(tmp_path: Path, failure: type[BaseException], overwrite: bool) -> None:
    if overwrite:
        make(tmp_path / "bundle", OLD)
    with pytest.raises(failure), new_bundle(tmp_path / "bundle", overwrite=overwrite) as folder:
        write_file(folder, "manifest.json", NEW)
        raise failure
    assert names(tmp_path) == ({"bundle"} if overwrite else set())
    if overwrite:
        assert (tmp_path / "bundle" / "manifest.json").read_bytes() == OLD


def test_existing_targets(tmp_path: Path) -> None:
    make(tmp_path / "bundle", OLD)
    with pytest.raises(TargetExists, match="--overwrite"):
        make(tmp_path / "bundle")
    make(tmp_path / "bundle", overwrite=True)
    assert (tmp_path / "bundle" / "manifest.json").read_bytes() == NEW
    assert names(tmp_path) == {"bundle"}


@pytest.mark.parametrize("manifest", [None, b"", b"[]", b'{"name": "a web page"}', b"\xff"])
def test_overwrite_spares_what_is_no_bundle(tmp_path: Path, manifest: bytes | None) -> None:
    target = tmp_path / "thesis"
    target.mkdir()
    (target / "chapter.tex").write_text("years of work")
    if manifest is not None:
        (target / "manifest.json").write_bytes(manifest)
    with pytest.raises(TargetExists, match="not a bundle"):
        make(target, overwrite=True)
    assert (target / "chapter.tex").read_text() == "years of work"
    assert names(tmp_path) == {"thesis"}


def test_a_file_or_a_dangling_link_as_target(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(TargetExists):
            make(tmp_path / "file", overwrite=overwrite)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    make(tmp_path / "link")
    assert (tmp_path / "real" / "manifest.json").exists()


def test_through_a_link_the_real_folder_is_replaced(tmp_path: Path) -> None:
    make(tmp_path / "v1", OLD)
    (tmp_path / "latest").symlink_to("v1")
    make(tmp_path / "latest", overwrite=True)
    assert (tmp_path / "latest").is_symlink()
    assert (tmp_path / "v1" / "manifest.json").read_bytes() == NEW


def test_a_target_that_appears_meanwhile(tmp_path: Path) -> None:
    with pytest.raises(TargetExists), new_bundle(tmp_path / "bundle", overwrite=False) as folder:
        write_file(folder, "manifest.json", NEW)
        make(tmp_path / "bundle", OLD)
    assert (tmp_path / "bundle" / "manifest.json").read_bytes() == OLD
    assert names(tmp_path) == {"bundle"}


def test_a_failed_swap_brings_the_old_bundle_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "bundle", OLD)
    real_rename = os.rename

    def rename(source: Path, target: Path) -> None:
        if ".partial-" in source.name:
            raise OSError(28, "No space left on device")
        real_rename(source, target)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(WriteError, match="No space left"):
        make(tmp_path / "bundle", overwrite=True)
    assert (tmp_path / "bundle" / "manifest.json").read_bytes() == OLD
    assert names(tmp_path) == {"bundle"}


def test_folders_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(WriteError):
        make(tmp_path / "file" / "bundle")


def start_export(target: Path, overwrite: bool = False) -> "subprocess.Popen[bytes]":
    """A process that has begun a bundle and is waiting in the middle of it."""
    code = f"""
import signal, sys
from pathlib import Path
from rmexport.export import new_bundle; from rmexport.output.atomic_folder import write_file
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job's children ignore it
with new_bundle(Path({str(target)!r}), overwrite={overwrite}) as folder:
    write_file(folder, "model.safetensors", bytes(1000))
    (folder / "ready").touch()
    sys.stdin.read()  # for as long as the test lives
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}, stdin=subprocess.PIPE
    )
    deadline = time.monotonic() + 600  # for a machine with much else to do
    while not list(target.parent.glob(".*/ready")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


def kill(process: "subprocess.Popen[bytes]", how: int = signal.SIGKILL) -> None:
    process.send_signal(how)
    process.communicate()


def test_a_killed_export_leaves_nothing_that_loads(tmp_path: Path) -> None:
    """Only a temporary folder stays, and the next export to the same target removes it, no other."""
    target = tmp_path / "bundle"
    kill(start_export(target))
    [leftover] = names(tmp_path)
    assert leftover.startswith(".bundle.partial-")
    (tmp_path / ".bundle2.partial-1").mkdir()
    make(target)
    assert names(tmp_path) == {"bundle", ".bundle2.partial-1"}


def test_an_export_that_is_still_running_is_left_alone(tmp_path: Path) -> None:
    process = start_export(tmp_path / "bundle")
    try:
        make(tmp_path / "bundle")
        assert len(names(tmp_path)) == 2
    finally:
        kill(process)


def test_file_systems_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports work; what may be another one's folder is left alone."""

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(95, "Operation not supported")

    kill(start_export(tmp_path / "bundle"))
    monkeypatch.setattr(fcntl, "flock", refuse)
    make(tmp_path / "bundle")
    assert len(names(tmp_path)) == 2


def test_an_interrupted_export_cleans_up(tmp_path: Path) -> None:
    make(tmp_path / "bundle", OLD)
    process = start_export(tmp_path / "bundle", overwrite=True)
    kill(process, signal.SIGINT)
    assert names(tmp_path) == {"bundle"}
    assert (tmp_path / "bundle" / "manifest.json").read_bytes() == OLD


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    """The target is absent, the old bundle waits beside it until a new one is complete."""
    make(tmp_path / "bundle", OLD)
    (tmp_path / "bundle").rename(tmp_path / ".bundle.replaced-1")
    with pytest.raises(ValueError, match="x"), new_bundle(tmp_path / "bundle", overwrite=True):
        raise ValueError("x")
    assert names(tmp_path) == {".bundle.replaced-1"}
    make(tmp_path / "bundle")
    assert names(tmp_path) == {"bundle"}


def test_write_file_records_what_it_wrote(tmp_path: Path) -> None:
    record = write_file(tmp_path, "tokenizer.json", b"{}", role="tokenizer")
    assert (record.name, record.size, record.role) == ("tokenizer.json", 2, "tokenizer")
    assert record.sha256 == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    with pytest.raises(WriteError):
        write_file(tmp_path, "tokenizer.json/x", b"")


def test_replace_file(tmp_path: Path) -> None:
    for text in ("one", "two"):
        replace_file(tmp_path, "parity.json", json.dumps(text).encode())
        assert json.loads((tmp_path / "parity.json").read_bytes()) == text
    assert names(tmp_path) == {"parity.json"}
    with pytest.raises(WriteError):
        replace_file(tmp_path / "none", "parity.json", b"")


def test_the_loser_of_two_exports_removes_its_shards(tmp_path: Path) -> None:
    """Another export to the same target was faster; the next would be refused, so nothing is worth keeping."""
    asked = []

    def settle(folder: Path) -> str:
        asked.append(folder)
        return "1 of 1 shards"

    def write(error: type[BaseException] | None = None) -> None:
        options: dict[str, Any] = {"overwrite": False, "kind": "bundle", "marker": Path.is_dir, "keep_reusable": settle}
        with new_folder(tmp_path / "bundle", **options) as folder:
            (folder / "model.safetensors").write_bytes(bytes(10))
            make(tmp_path / "bundle")  # the other one
            if error is not None:
                raise error

    for error, expected in ((None, TargetExists), (KeyboardInterrupt, KeyboardInterrupt)):
        with pytest.raises(expected):
            write(error)
        assert names(tmp_path) == {"bundle"} and not asked
        shutil.rmtree(tmp_path / "bundle")
