"""Choices are found in their folders: helpers are passed over, and what a file lacks or repeats is named with it."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rmexport import dialects, families, heads
from rmexport.bench import peers
from rmexport.bench.worker.scorer import PeerModule
from rmruntime import RewardModelError, backends
from rmruntime.errors import ModuleError
from rmruntime.modules import discover, is_choice, members
from rmruntime.text import layouts

AXES: dict[ModuleType, tuple[Callable[[], Any], str]] = {
    families: (families.families, "FAMILY"),
    heads: (heads.heads, "HEAD"),
    dialects: (dialects.dialects, "subclass of Dialect that has a NAME"),
    backends: (backends.backends, "NAME, DEVICES, PRIORITY, HAS_INDEX, PACKAGE, EXTRA, DIALECTS, RUNS_STAGES, "),
    layouts: (layouts._layouts, "LAYOUT"),
    peers: (peers.peers, "NAME, PACKAGES, DISTRIBUTIONS, DTYPES, HEADS, load"),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that every package of choices has besides its own."""
    before = set(sys.modules)
    for package, (found, _) in AXES.items():
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
        found.cache_clear()  # type: ignore[attr-defined]
    yield tmp_path
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == tmp_path:
            del sys.modules[name]
    for found, _ in AXES.values():
        found.cache_clear()  # type: ignore[attr-defined]


@pytest.mark.parametrize("package", AXES, ids=lambda package: package.__name__)
def test_a_file_that_lacks_what_it_must_have_is_named_with_it(folder: Path, package: ModuleType) -> None:
    (folder / "unready.py").write_text('"""Begun."""\n')
    found, lacks = AXES[package]
    with pytest.raises(ModuleError, match=rf"unready\.py: found no {lacks}"):
        found()
    assert issubclass(ModuleError, RewardModelError)


STATED = {families: ("FAMILY", "Family"), heads: ("HEAD", "ScoringHead or RefusedHead"), layouts: ("LAYOUT", "Layout")}


@pytest.mark.parametrize("package", STATED, ids=lambda package: package.__name__)
def test_a_file_that_states_something_else_is_named_with_what_is_expected(folder: Path, package: ModuleType) -> None:
    name, kind = STATED[package]
    (folder / "unready.py").write_text(f'{name} = "llama"\n')
    with pytest.raises(ModuleError, match=rf"unready\.py: found {name} = 'llama', expected a {kind}, in which"):
        AXES[package][0]()


@pytest.mark.parametrize("package", STATED, ids=lambda package: package.__name__)
def test_a_misspelt_fact_is_an_error(folder: Path, package: ModuleType) -> None:
    kinds = {families: "Family", heads: "ScoringHead", layouts: "Layout"}
    home = "rmruntime.text.layouts.base" if package is layouts else package.__name__
    kind, name = kinds[package], STATED[package][0]
    (folder / "unready.py").write_text(f"from {home} import {kind}\n{name} = {kind}(defalt_pad_id=0)\n")
    with pytest.raises(TypeError, match="unexpected keyword argument 'defalt_pad_id'"):
        AXES[package][0]()


def test_a_text_in_place_of_a_tuple_is_an_error(folder: Path) -> None:
    llama = Path(families.__path__[0]).joinpath("llama.py").read_text()
    (folder / "unready.py").write_text(llama.replace('model_types=("llama",)', 'model_types=("abc")'))
    with pytest.raises(ModuleError, match=r"unready\.py: found model_types = 'abc', expected a tuple; write"):
        families.families()


@pytest.mark.parametrize("package", AXES, ids=lambda package: package.__name__)
def test_a_name_that_another_file_has_too_is_an_error(folder: Path, package: ModuleType) -> None:
    own = Path(package.__path__[0])
    taken = next(file for file in sorted(own.glob("*.py")) if is_choice(file.stem))
    (folder / "unready.py").write_text(taken.read_text())
    with pytest.raises(ModuleError, match=r"found the name .*, which .* has too, expected one of its own") as caught:
        AXES[package][0]()
    assert str(folder / "unready.py") in str(caught.value) and str(taken) in str(caught.value)


@pytest.mark.parametrize("package", AXES, ids=lambda package: package.__name__)
def test_helpers_are_passed_over(folder: Path, package: ModuleType) -> None:
    (folder / "_helper.py").write_text("raise AssertionError")
    assert AXES[package][0]()


def test_only_what_is_missing_is_named_of_the_contract_that_is_nearest(folder: Path) -> None:
    text = "\n".join(f"{name} = ()" for name in members(PeerModule) if name != "load")
    (folder / "unready.py").write_text(text)
    with pytest.raises(ModuleError, match=r"found no load, which every module of rmexport\.bench\.peers must have"):
        discover(peers.__name__, members(PeerModule), ("NAME", "close", "refuse"))
    (folder / "unready.py").write_text(text + "\nclose = refuse = None")
    del sys.modules[f"{peers.__name__}.unready"]
    found = discover(peers.__name__, members(PeerModule), ("NAME", "close", "refuse"))
    assert found[-1].__name__ == f"{peers.__name__}.unready"


@pytest.mark.parametrize(("name", "choice"), [("llama", True), ("_ort_base", False), ("base", False), ("based", True)])
def test_what_is_a_choice(name: str, choice: bool) -> None:
    assert is_choice(name) is choice
