"""Where a peer's Python is looked for, and what its process is given."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rmexport.bench.contestants import Entrant, entrants
from rmexport.bench.options import BenchOptions
from rmexport.errors import OptionError


def found(folder: Path, **more: Any) -> dict[str, Entrant]:
    """The entrants by name, the peers' environments being in `folder`."""
    bundle: Any = SimpleNamespace(folder=folder)
    options = BenchOptions(checkpoint=str(folder), **{"peer_folder": folder, **more})
    return {entrant.name: entrant for entrant in entrants(bundle, options)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With environments for vLLM and transformers."""
    for name in ("vllm", "transformers"):
        python = tmp_path / name / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.symlink_to(sys.executable)
    return tmp_path


def test_the_environment_made_for_a_peer_is_found(folder: Path) -> None:
    entered = found(folder, peers=("vllm:fp32", "vllm-serve", "transformers-kv", "optimum-onnx"), threads=3)
    python = {name: entrant.python for name, entrant in entered.items()}
    assert python["vllm:fp32"] == python["vllm-serve"] == str(folder / "vllm" / "bin" / "python")
    assert python["transformers-kv"] == str(folder / "transformers" / "bin" / "python")
    assert python["optimum-onnx"] == python["rmexport"] == sys.executable
    assert entered["vllm:fp32"].environment["OMP_NUM_THREADS"] == "3"
    assert entered["transformers-kv"].environment == entered["rmexport"].environment == {}


def test_the_user_s_own_python_comes_first_and_no_folder_is_looked_in_unasked(folder: Path) -> None:
    given = {"peers": ("vllm", "transformers")}
    assert found(folder, **given, peer_python={"vllm": sys.executable})["vllm"].python == sys.executable
    assert found(folder, **given, peer_folder=None)["vllm"].python == sys.executable
    with pytest.raises(OptionError, match="no such file"):
        found(folder, **given, peer_python={"vllm": str(folder / "nothing")})
