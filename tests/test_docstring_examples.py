"""Examples in docstrings (`>>>`) run and return what they say."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = [
    (path, ".".join(path.relative_to(folder).with_suffix("").parts).removesuffix(".__init__"))
    for folder, package in ((ROOT, "rmexport"), (ROOT / "runtime", "rmruntime"))
    for path in sorted((folder / package).rglob("*.py"))
]
MODULES = [name for path, name in SOURCES if ">>> " in path.read_text()]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    failed, attempted = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert attempted and not failed
