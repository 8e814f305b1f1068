"""onnxruntime-gpu over stubs of CUDA: its placement, options, checks and choice of kernels are real, and no arithmetic.

`./scripts/test --cuda-stub` installs both and puts them on the paths.
"""

import ctypes
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from backbone_shapes import BACKBONES
from cuda_events import RUNTIME, BundleOf, Log, cuda_events
from family_checkpoints import family_checkpoint
from internlm2_model import Internlm2Shape, internlm2_checkpoint
from rmexport import ExportOptions, export

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "benchmarks"))  # its probes are rehearsed

MakeOnce = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture(autouse=True, scope="session")
def stub() -> Iterator[None]:
    """Nothing runs without both: a real GPU would be another test."""
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime-gpu is not installed here; ./scripts/test --cuda-stub installs it")
    try:
        ctypes.CDLL(RUNTIME).stub_log  # noqa: B018 # whether it is the stub
    except (OSError, AttributeError):
        pytest.skip(f"{RUNTIME} is not the stub; ./scripts/test --cuda-stub builds it")
    yield


@pytest.fixture
def log(tmp_path: Path) -> Log:
    """A context that collects what happens on the stub."""
    return partial(cuda_events, tmp_path)


@pytest.fixture(scope="session")
def bundle_of(made_once: MakeOnce) -> BundleOf:
    """The bundle of a backbone in a dtype, with these options of the export.

    Backbones are those of BACKBONES and "internlm2"; "qwen3:head_dim=96" is qwen3 with another field of its config.
    """

    def made(backbone: str, dtype: str = "bf16", **options: Any) -> Path:
        checkpoint = made_once(f"stub-{backbone}", partial(_checkpoint, backbone)) / "c"
        name = "-".join(map(str, (backbone, dtype, *options.values())))
        given = ExportOptions(dtype=dtype, **options)  # type: ignore[arg-type] # one of its choices
        return made_once(f"stub-{name}", lambda folder: export(str(checkpoint), folder / "b", given) and None) / "b"

    return made


def _checkpoint(backbone: str, folder: Path) -> None:
    if backbone == "internlm2":
        internlm2_checkpoint(folder / "c", Internlm2Shape(vocab_size=1, bias=True))
    else:
        name, _, change = backbone.partition(":")
        field, _, value = change.partition("=")
        model_type, fields = BACKBONES[name]
        family_checkpoint(folder / "c", model_type, fields | ({field: int(value)} if field else {}))
