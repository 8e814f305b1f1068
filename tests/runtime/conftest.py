"""A GPU that is not there, for tests of what talks to one."""

import pytest

from fake_cuda import FakeDriver, FakeOnnxRuntime
from rmruntime.backends import ort_cuda
from rmruntime.devices import cuda_driver


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    """In the place of CUDA's driver: one GPU."""
    fake = FakeDriver()
    monkeypatch.setattr(cuda_driver, "load_library", lambda: fake)
    return fake


@pytest.fixture
def ort(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> FakeOnnxRuntime:
    """In the place of onnxruntime-gpu: computes on the CPU."""
    fake = FakeOnnxRuntime()
    monkeypatch.setattr(ort_cuda, "engine_module", lambda name: fake)
    return fake
