"""The runtime alone: its wheel and its declared dependencies, nothing else, score a bundle without PyTorch.

Offline stand-in for `pip install './runtime[cpu]'` in a fresh environment (scripts/slim-install does that): a folder
that holds links to the files of exactly the distributions that rmruntime's metadata asks for.
"""

import importlib.metadata
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from rmexport import export
from tiny_checkpoints import gated

ROOT = Path(__file__).parent.parent
FORBIDDEN = ("torch", "transformers", "onnx", "onnx_ir", "rmexport", "ml_dtypes", "safetensors")
SCRIPT = """
import json, sys
import rmruntime, rmruntime.cli, pkgutil, importlib
for module in pkgutil.walk_packages(rmruntime.__path__, "rmruntime."):
    importlib.import_module(module.name)
with rmruntime.RewardModel.load(sys.argv[1], device="cpu") as model:
    [score] = model.score([{"prompt": "a", "response": "b"}])
print(json.dumps({"value": score.value, "modules": sorted({m.partition(".")[0] for m in sys.modules})}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """rmruntime's wheel, built by its own backend from a copy of its sources."""
    import shutil

    folder = tmp_path_factory.mktemp("wheel")
    source = shutil.copytree(ROOT / "runtime", folder / "runtime", ignore=shutil.ignore_patterns("__pycache__"))
    build = "from hatchling.build import build_wheel; print(build_wheel('..'))"
    name = subprocess.run(
        [sys.executable, "-c", build], cwd=source, check=True, capture_output=True, text=True
    ).stdout.splitlines()[-1]
    return folder / name


def closure(names: list[str]) -> set[str]:
    """The distributions that these need, directly or not, without extras."""
    found: set[str] = set()
    while names:
        name = re.sub(r"[-_.]+", "-", names.pop()).lower()
        if name in found:
            continue
        found.add(name)
        for line in importlib.metadata.requires(name) or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                names.append(requirement.name)
    return found


def link_distribution(name: str, target: Path) -> None:
    distribution = importlib.metadata.distribution(name)
    for top in {Path(str(file)).parts[0] for file in distribution.files or []}:
        source = Path(str(distribution.locate_file(top)))
        if top not in ("..", "__pycache__") and not (target / top).exists():
            (target / top).symlink_to(source)


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(n for n in names if n.endswith("METADATA"))).decode()
    assert "rmruntime/py.typed" in names
    assert all(name.startswith(("rmruntime/", "rmruntime-")) for name in names)
    required = re.findall(r"^Requires-Dist: ([\w-]+)[^;\n]*$", metadata, re.MULTILINE)
    assert set(required) == {"numpy", "tokenizers", "jinja2", "tqdm"}


def test_scores_with_its_own_dependencies_only(wheel: Path, tmp_path: Path) -> None:
    export(str(gated(tmp_path / "c").folder), tmp_path / "b")
    packages = tmp_path / "packages"
    packages.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    for name in closure(["numpy", "tokenizers", "jinja2", "tqdm", "onnxruntime"]):
        link_distribution(name, packages)
    result = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            "-c",
            f"import sys; sys.path.append({str(packages)!r})\n{SCRIPT}",
            str(tmp_path / "b"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert isinstance(found["value"], float)
    assert not set(FORBIDDEN) & set(found["modules"])
    assert not any((packages / name).exists() for name in FORBIDDEN)
