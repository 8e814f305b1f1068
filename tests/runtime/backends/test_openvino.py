"""Which arithmetic OpenVINO runs: the bundle's where the processor has it, never less unless asked."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from conversations import ragged_records
from rmexport import ExportOptions, export
from rmruntime import BackendError, OptionError, RewardModel, Score
from tiny_checkpoints import gated

pytest.importorskip("openvino")
from rmruntime.backends import openvino as backend  # the engine may be missing


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("openvino")
    checkpoint = str(gated(folder / "checkpoint").folder)
    for dtype in ("fp32", "bf16", "fp16"):
        export(checkpoint, folder / dtype, ExportOptions(dtype=dtype))  # type: ignore[arg-type] # one of its choices
    return {dtype: folder / dtype for dtype in ("fp32", "bf16", "fp16")}


def scores(bundle: Path, device: str, precision: str) -> tuple[np.ndarray, str]:
    with RewardModel.load(bundle, device=device, precision=precision) as model:
        found = model.score(ragged_records(12))
        return np.array([s.value for s in found if isinstance(s, Score)]), model.precision


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_fp32_is_fp32_whatever_the_weights(bundles: dict[str, Path], dtype: str) -> None:
    found, ran = scores(bundles[dtype], "openvino", "fp32")
    expected, _ = scores(bundles[dtype], "ort-cpu", "fp32")
    assert ran == "fp32"
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_auto_is_the_bundles_arithmetic_or_better(bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    ran = {dtype: scores(bundle, "openvino", "auto")[1] for dtype, bundle in bundles.items()}
    assert ran == {"fp32": "fp32", "fp16": "fp32", "bf16": "bf16" if backend.has_bf16() else "fp32"}
    monkeypatch.setattr(backend, "has_bf16", lambda: False)
    assert scores(bundles["bf16"], "openvino", "auto")[1] == "fp32"
    with pytest.raises(BackendError, match="bf16"):
        scores(bundles["bf16"], "openvino", "bf16")


@pytest.mark.skipif(not backend.has_bf16(), reason="this processor has no bf16 products")
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_bf16_on_request_errs_like_bf16(bundles: dict[str, Path], dtype: str) -> None:
    found, ran = scores(bundles[dtype], "openvino", "bf16")
    expected, _ = scores(bundles[dtype], "ort-cpu", "auto")
    assert ran == "bf16"
    assert 1e-5 < np.abs(found - expected).max() < 0.1


@pytest.mark.parametrize(("device", "precision"), [("openvino", "fp16"), ("ort-cpu", "bf16"), ("ort-cpu", "fp16")])
def test_a_precision_that_the_engine_lacks_is_an_error(bundles: dict[str, Path], device: str, precision: str) -> None:
    with pytest.raises(BackendError, match=f"precision '{precision}'"):
        RewardModel.load(bundles["bf16"], device=device, precision=precision)


def test_an_unknown_precision_names_the_known_ones(bundles: dict[str, Path]) -> None:
    with pytest.raises(OptionError, match="auto, fp32, bf16, fp16"):
        RewardModel.load(bundles["bf16"], precision="int3")


def test_signals_are_survived_once_a_model_has_gone(bundles: dict[str, Path]) -> None:
    """OpenVINO takes away the stack for signal handlers that it gave to the thread which loads it."""
    code = f"""
import gc, signal, threading
from rmruntime import RewardModel
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell has it ignored
models = [RewardModel.load({str(bundles["fp32"])!r}, device="openvino")]

def end():
    models.pop().close()
    gc.collect()

thread = threading.Thread(target=end)
thread.start()
thread.join()
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "interrupted\n"


def test_a_closed_model_has_no_weights_mapped(bundles: dict[str, Path]) -> None:
    """Even while somebody still holds it."""
    model = RewardModel.load(bundles["bf16"], device="openvino")
    model.score(ragged_records(2))
    assert str(bundles["bf16"]) in Path("/proc/self/maps").read_text()
    model.close()
    assert str(bundles["bf16"]) not in Path("/proc/self/maps").read_text()
