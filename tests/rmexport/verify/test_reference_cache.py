"""The folder of kept states: exact, bounded, whole or not at all, and careful with what is not its own."""

import hashlib
import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rmexport import OptionError, WriteError
from rmexport.output.staging_folder import ignore
from rmexport.verify import reference_cache
from rmexport.verify.reference_cache import ReferenceCache, default_folder, open_cache
from rmexport.verify.reference_pass import SequenceStates

NOW = 1.7e9


def key(name: str = "k") -> Any:
    """In place of a ReferenceKey."""
    return SimpleNamespace(
        digest=lambda dtype: hashlib.sha256(f"{name} {dtype}".encode()).hexdigest(),
        checkpoint=SimpleNamespace(folder=Path("c")),
    )


def states(seed: int, rows: int = 2, width: int = 3) -> SequenceStates:
    rng = np.random.default_rng(seed)
    values = {role: rng.normal(size=(rows, width)).astype(np.float32) for role in ("score", "gate")}
    return SequenceStates(values=values, peaks={"layers.0": 0.1 + seed, "layers.1": 1e30})


def cache_of(folder: Path, now: float = NOW, **settings: Any) -> ReferenceCache:
    return ReferenceCache(folder, settings.pop("notify", ignore), now=lambda: now, **settings)


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.states"))


def same(a: SequenceStates, b: SequenceStates) -> bool:
    bits = [{role: (x.shape, x.tobytes()) for role, x in one.values.items()} for one in (a, b)]
    return bits[0] == bits[1] and repr(a.peaks) == repr(b.peaks)


def test_bitwise_what_was_kept(tmp_path: Path) -> None:
    odd = SequenceStates(
        values={"score": np.array([[np.nan, -0.0, np.inf, 1e-45]], np.float32)}, peaks={"layers.0": float("nan")}
    )
    kept = {"a": states(1), "b": states(2, rows=5), "odd": odd, "encoder": SequenceStates(values={}, peaks={})}
    cache_of(tmp_path).keep(key(), "bf16", kept)
    found = cache_of(tmp_path, now=NOW + 5).read(key(), "bf16", kept)
    assert found.keys() == kept.keys() and all(same(found[name].states, kept[name]) for name in kept)
    assert {one.made for one in found.values()} == {NOW}


def test_only_of_the_same_key_and_dtype_and_only_what_is_wanted(tmp_path: Path) -> None:
    cache_of(tmp_path).keep(key(), "fp32", {"a": states(1), "b": states(2)})
    cache_of(tmp_path).keep(key(), "fp32", {"c": states(3)})
    assert cache_of(tmp_path).read(key(), "fp32", {"a", "c", "d"}).keys() == {"a", "c"}
    assert not cache_of(tmp_path).read(key(), "bf16", {"a"}) and not cache_of(tmp_path).read(key("o"), "fp32", {"a"})


@pytest.mark.parametrize("fault", ["cut", "flipped", "empty", "foreign", "renamed", "folder"])
def test_what_is_not_as_it_was_written_is_ignored_and_replaced(tmp_path: Path, fault: str) -> None:
    cache_of(tmp_path).keep(key(), "fp32", {"a": states(1)})
    [path] = files(tmp_path)
    data = path.read_bytes()
    spoiled = {
        "cut": data[:-1],
        "flipped": data[:-1] + bytes([data[-1] ^ 1]),
        "empty": b"",
        "foreign": b"\x80PK\x03\x04" * 9,
    }
    if fault == "renamed":
        cache_of(tmp_path).keep(key("other"), "fp32", {"a": states(9)})
        [other] = [found for found in files(tmp_path) if found != path]
        other.replace(path)
    elif fault == "folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(spoiled[fault])
    cache = cache_of(tmp_path)
    assert not cache.read(key(), "fp32", {"a"})
    if fault != "folder":
        cache.keep(key(), "fp32", {"a": states(1)})
        assert same(cache_of(tmp_path).read(key(), "fp32", {"a"})["a"].states, states(1))


def test_the_folder_is_bounded_and_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    size = reference_cache._LEAST
    for i in range(4):
        cache_of(tmp_path, limit=4 * size).keep(key(f"{i}"), "fp32", {"a": states(i)})
        os.utime(next(p for p in files(tmp_path) if p.name.startswith(key(f"{i}").digest("fp32"))), ns=(0, i))
    assert cache_of(tmp_path).read(key("0"), "fp32", {"a"})  # used again
    cache_of(tmp_path, limit=4 * size).keep(key("4"), "fp32", {"a": states(4)})
    left = [i for i in range(5) if cache_of(tmp_path).read(key(f"{i}"), "fp32", {"a"})]
    assert left == [0, 2, 3, 4] and len(files(tmp_path)) == 4


def test_what_one_run_needs_is_not_removed_by_itself(tmp_path: Path) -> None:
    told: list[str] = []
    cache = cache_of(tmp_path, limit=2 * reference_cache._LEAST, notify=told.append)
    for i in range(4):
        cache.keep(key(), "fp32", {f"{i}": states(i)})
    assert cache.read(key(), "fp32", {"0", "1", "2", "3"}).keys() == {"0", "1"}
    assert len(told) == 1 and "are not kept" in told[0] and not cache.keeps


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    mine = [tmp_path / "notes.txt", tmp_path / "x.states", tmp_path / ".x.partial-1"]
    for path in mine:
        path.write_text("mine")
        os.utime(path, (0, 0))
    cache_of(tmp_path, limit=1).keep(key(), "fp32", {"a": states(1)})
    assert all(path.read_text() == "mine" for path in mine) and not cache_of(tmp_path).read(key(), "fp32", {"a"})


def test_what_a_killed_process_left_goes_after_a_day(tmp_path: Path) -> None:
    name = f".{key().digest('fp32')}-{'0' * 32}.states.partial-"
    for suffix, age in (("01", 2 * 86400), ("02", 60)):
        (tmp_path / (name + suffix)).write_text("")
        os.utime(tmp_path / (name + suffix), (NOW - age, NOW - age))
    cache_of(tmp_path).keep(key(), "fp32", {"a": states(1)})
    assert [path.name[-2:] for path in tmp_path.glob(".*")] == ["02"]


def test_a_folder_that_cannot_be_written_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache_of(tmp_path).keep(key(), "fp32", {"a": states(1)})

    def refuse(*arguments: object, **more: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path))

    def refuse_file(folder: Path, name: str, data: bytes) -> None:
        raise WriteError(f"{folder / name} cannot be written: Read-only file system")

    told: list[str] = []
    monkeypatch.setattr(os, "utime", refuse)
    monkeypatch.setattr(reference_cache, "replace_file", refuse_file)
    cache = cache_of(tmp_path, notify=told.append)
    assert cache.read(key(), "fp32", {"a"})
    for name in "bc":
        cache.keep(key(), "fp32", {name: states(2)})
    assert len(told) == 1 and "Read-only file system" in told[0] and "--reference-cache" in told[0]
    below_a_file = files(tmp_path)[0] / "below"
    cache_of(below_a_file, notify=told.append).keep(key(), "fp32", {"a": states(1)})
    assert len(told) == 2 and not cache_of(below_a_file).read(key(), "fp32", {"a"})


def test_two_at_once(tmp_path: Path) -> None:
    """Each reads what is whole, whatever the other writes or removes."""
    names = [f"{i}" for i in range(12)]
    wrong: list[str] = []

    def work() -> None:
        cache = cache_of(tmp_path, limit=6 * reference_cache._LEAST)
        for i, name in enumerate(names):
            cache_of(tmp_path, limit=6 * reference_cache._LEAST).keep(key(), "fp32", {name: states(i)})
            found = cache.read(key(), "fp32", names)
            wrong.extend(n for n, one in found.items() if not same(one.states, states(int(n))))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and 0 < len(files(tmp_path)) <= 7


def test_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for given in ("", "relative"):  # the XDG specification has relative paths ignored
        monkeypatch.setenv("XDG_CACHE_HOME", given)
        assert default_folder() == tmp_path / ".cache" / "rmexport" / "reference"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert open_cache(None, ignore).folder == default_folder() == tmp_path / "x" / "rmexport" / "reference"
    assert open_cache("~/own", ignore).folder == tmp_path / "own"
    assert not tmp_path.joinpath("own").exists()  # until there is something to keep


def test_off_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cache = open_cache("off", ignore)
    cache.keep(key(), "fp32", {"a": states(1)})
    assert not cache.keeps and not cache.read(key(), "fp32", {"a"}) and not list(tmp_path.iterdir())


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    for wrong in (str(tmp_path / "f"), ""):
        with pytest.raises(OptionError, match="is no folder: give a folder, or 'off'"):
            open_cache(wrong, ignore)


def test_the_tests_keep_out_of_the_users_own() -> None:
    folder = default_folder()
    assert folder is not None and not folder.is_relative_to(Path.home() / ".cache")
