"""The NVIDIA driver's library, called through ctypes: no package is needed to tell a missing driver from a missing GPU.

Functions and numbers are those of the CUDA driver API (cuda.h).
"""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rmruntime.errors import EngineUnusable

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_OUT_OF_MEMORY, _NOT_INITIALIZED, _STUB_LIBRARY, _INSUFFICIENT_DRIVER, _NO_DEVICE = 2, 3, 34, 35, 100  # CUresult
_NOT_READY, _DRIVER_MISMATCH, _COMPAT_NOT_SUPPORTED = 802, 803, 804
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # CUdevice_attribute

_ADVICE = {
    _OUT_OF_MEMORY: "the GPU's memory is full, so that no process can start there; see nvidia-smi for who uses it",
    _NOT_INITIALIZED: "CUDA does not start; in a process forked from one that used CUDA it never does (use spawn, not "
    "fork, or load the model in the child alone)",
    _STUB_LIBRARY: f"the {LIBRARY} that was found is the toolkit's stub; take the stubs folder out of LD_LIBRARY_PATH",
    _INSUFFICIENT_DRIVER: "the NVIDIA driver is too old; install a newer one",
    _NO_DEVICE: "the NVIDIA driver sees no GPU; see nvidia-smi and CUDA_VISIBLE_DEVICES, and in a container the option "
    "that passes the GPUs in (docker run --gpus all)",
    _NOT_READY: "the GPUs are not ready; with NVSwitch the fabric manager must run (nvidia-fabricmanager)",
    _DRIVER_MISMATCH: f"{LIBRARY} and the kernel's NVIDIA module are of different versions; restart the machine",
    _COMPAT_NOT_SUPPORTED: "the CUDA compatibility package does not support this GPU; update the driver instead",
}


@dataclass(frozen=True, kw_only=True)
class CudaDevice:
    """A GPU by its CUDA number; `compute_capability` is (9, 0) for sm_90, `total_memory` in bytes.

    >>> str(CudaDevice(index=0, name="NVIDIA H200", compute_capability=(9, 0), total_memory=150_000_000_000))
    'cuda:0 (NVIDIA H200, compute capability 9.0, 150.0 GB)'
    """

    index: int
    name: str
    compute_capability: tuple[int, int]
    total_memory: int

    def __str__(self) -> str:
        major, minor = self.compute_capability
        return f"cuda:{self.index} ({self.name}, compute capability {major}.{minor}, {self.total_memory / 1e9:.1f} GB)"


def find_devices() -> tuple[CudaDevice, ...]:
    """Every GPU that CUDA sees, in its order.

    Raises EngineUnusable without a driver library, with one that is too old or not running, and without a GPU; the
    message says which, and what to do.
    """
    driver = _Driver()
    devices = tuple(_device(driver, index) for index in range(driver.integer("cuDeviceGetCount")))
    if not devices:
        raise EngineUnusable(_ADVICE[_NO_DEVICE])
    return devices


def cuda_device(index: int) -> CudaDevice:
    """The GPU with the number `index`. Raises EngineUnusable as find_devices does, or naming the GPUs that exist."""
    devices = find_devices()
    if index >= len(devices):
        have = ", ".join(map(str, devices))
        raise EngineUnusable(f"there is no GPU cuda:{index}; CUDA sees {have}. See also CUDA_VISIBLE_DEVICES")
    return devices[index]


def driver_version() -> tuple[int, int]:
    """The newest CUDA version that the driver supports, as (13, 0). Raises EngineUnusable as find_devices does."""
    number = _Driver().integer("cuDriverGetVersion")
    return number // 1000, number % 1000 // 10


def free_memory(index: int) -> int:
    """Bytes that a process can still allocate on the GPU `index`, beyond those of its CUDA context.

    Raises EngineUnusable as find_devices does, and where no context can be created.
    """
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    with _context(index) as driver:
        driver.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
    return free.value


class DeviceCopies:
    """Copies within the memory of one GPU, which are done once the `device_copies` that gave this is left."""

    def __init__(self, driver: "_Driver") -> None:
        self._driver = driver

    def copy(self, target: int, source: int, nbytes: int) -> None:
        """Bytes from one address to another, which do not overlap."""
        self._driver.call(
            "cuMemcpyDtoDAsync_v2", ctypes.c_uint64(target), ctypes.c_uint64(source), ctypes.c_size_t(nbytes), None
        )

    def zero(self, target: int, nbytes: int) -> None:
        """Fill bytes with zeros."""
        self._driver.call("cuMemsetD8Async", ctypes.c_uint64(target), ctypes.c_ubyte(0), ctypes.c_size_t(nbytes), None)


@contextmanager
def device_copies(index: int) -> Iterator[DeviceCopies]:
    """Copies on the GPU `index`, in the primary context, which engines use too; waits for them in the end.

    Raises EngineUnusable where the driver says that one failed.
    """
    with _context(index) as driver:
        yield DeviceCopies(driver)
        driver.call("cuStreamSynchronize", None)


@contextmanager
def _context(index: int) -> Iterator["_Driver"]:
    """The driver with the GPU's primary context as that of this thread."""
    driver, device, context = _Driver(), ctypes.c_int(), ctypes.c_void_p()
    driver.call("cuDeviceGet", ctypes.byref(device), index)
    driver.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    try:
        driver.call("cuCtxPushCurrent_v2", context)
        try:
            yield driver
        finally:
            driver.call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))
    finally:
        driver.call("cuDevicePrimaryCtxRelease_v2", device)


def load_library() -> Any:
    """The driver's library. Raises EngineUnusable where there is none."""
    try:
        return ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise EngineUnusable(
            f"no NVIDIA driver was found ({error}); install NVIDIA's driver for the GPU, and in a container pass the "
            "GPUs in (docker run --gpus all)"
        ) from error


class _Driver:
    """The library after cuInit, which may be called any number of times."""

    def __init__(self) -> None:
        self._library = load_library()
        self.call("cuInit", 0)

    def call(self, function: str, *arguments: Any) -> None:
        """Raises EngineUnusable when the driver says that it failed."""
        code = getattr(self._library, function)(*arguments)
        if code:
            advice = _ADVICE.get(code, "the NVIDIA driver reports a failure; see whether nvidia-smi works")
            raise EngineUnusable(f"{advice} ({function}: {self._error(code)})")

    def integer(self, function: str) -> int:
        """The integer that a driver function writes through its one pointer."""
        value = ctypes.c_int()
        self.call(function, ctypes.byref(value))
        return value.value

    def _error(self, code: int) -> str:
        name = ctypes.c_char_p()
        known = self._library.cuGetErrorName(code, ctypes.byref(name)) == 0 and name.value
        return f"{name.value.decode()}, {code}" if known and name.value else f"error {code}"


def _device(driver: _Driver, index: int) -> CudaDevice:
    device, name, memory = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_size_t()
    driver.call("cuDeviceGet", ctypes.byref(device), index)
    driver.call("cuDeviceGetName", name, len(name), device)
    driver.call("cuDeviceTotalMem_v2", ctypes.byref(memory), device)
    major, minor = (_attribute(driver, device, number) for number in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR))
    return CudaDevice(
        index=index, name=name.value.decode(), compute_capability=(major, minor), total_memory=memory.value
    )


def _attribute(driver: _Driver, device: ctypes.c_int, number: int) -> int:
    value = ctypes.c_int()
    driver.call("cuDeviceGetAttribute", ctypes.byref(value), number, device)
    return value.value
