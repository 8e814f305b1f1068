"""A small bundle, and what compiles it without a GPU where tensorrt_rtx is installed."""

from pathlib import Path

import pytest

from rmexport import ExportOptions, export
from rmexport.compile.library import Library
from tiny_checkpoints import TinyShape, sequence_classifier


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bf16 bundle of a Llama of two layers."""
    folder = tmp_path_factory.mktemp("compile")
    export(
        str(sequence_classifier(folder / "c", TinyShape(num_hidden_layers=2)).folder),
        folder / "b",
        ExportOptions(dtype="bf16"),
    )
    return folder / "b"


@pytest.fixture(scope="session")
def rtx() -> Library:
    """tensorrt_rtx, which compiles for GPUs that are not here."""
    module = pytest.importorskip("tensorrt_rtx")
    return Library("tensorrt_rtx", module.__version__, module)
