"""What the NVIDIA driver says, through a library that answers as the real one does."""

import ctypes

import pytest

from fake_cuda import GB, FakeDriver, missing_driver
from rmruntime.devices import cuda_driver
from rmruntime.devices.cuda_driver import cuda_device, driver_version, find_devices, free_memory
from rmruntime.errors import EngineUnusable


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    fake = FakeDriver(count=2)
    monkeypatch.setattr(cuda_driver, "load_library", lambda: fake)
    return fake


def test_devices(driver: FakeDriver) -> None:
    first, second = find_devices()
    assert (first.index, first.name, first.compute_capability) == (0, "Fake GPU 0", (9, 0))
    assert second == cuda_device(1) and second.total_memory == 100 * GB
    assert str(second) == "cuda:1 (Fake GPU 1, compute capability 9.0, 100.0 GB)"


def test_a_number_without_a_device_names_those_that_there_are(driver: FakeDriver) -> None:
    with pytest.raises(EngineUnusable, match=r"no GPU cuda:2; CUDA sees cuda:0 \(Fake GPU 0.*cuda:1 \(Fake GPU 1"):
        cuda_device(2)


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", missing_driver)
    for ask in (find_devices, driver_version):
        with pytest.raises(EngineUnusable, match=r"no NVIDIA driver was found \(libcuda.*install"):
            ask()


def test_no_device(driver: FakeDriver) -> None:
    driver.count = 0
    with pytest.raises(EngineUnusable, match=r"sees no GPU.*CUDA_VISIBLE_DEVICES"):
        find_devices()


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (3, "forked"),
        (34, "stub"),
        (35, "too old"),
        (100, "sees no GPU"),
        (802, "fabric manager"),
        (803, "restart"),
        (804, "update the driver"),
        (999, "nvidia-smi"),
    ],
)
def test_a_driver_that_does_not_start_says_what_to_do(driver: FakeDriver, code: int, advice: str) -> None:
    driver.fails["cuInit"] = code
    with pytest.raises(EngineUnusable, match=rf"{advice}.*\(cuInit: CUDA_ERROR_FAKE, {code}\)"):
        find_devices()


def test_an_error_that_the_driver_has_no_name_for(driver: FakeDriver) -> None:
    driver.fails |= {"cuInit": 5, "cuGetErrorName": 1}
    with pytest.raises(EngineUnusable, match=r"cuInit: error 5"):
        find_devices()


def test_version(driver: FakeDriver) -> None:
    driver.version = 12040
    assert driver_version() == (12, 4)


def test_free_memory_leaves_no_context_behind(driver: FakeDriver) -> None:
    assert free_memory(1) == 90 * GB
    assert (driver.contexts, driver.current) == (0, 0)
    driver.fails["cuMemGetInfo_v2"] = 700
    with pytest.raises(EngineUnusable, match="cuMemGetInfo_v2"):
        free_memory(0)
    assert (driver.contexts, driver.current) == (0, 0)
    driver.fails["cuDevicePrimaryCtxRetain"] = 2
    with pytest.raises(EngineUnusable, match="memory is full"):
        free_memory(0)
