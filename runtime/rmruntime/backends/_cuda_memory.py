"""Memory of one CUDA device and one stream, through cuda-bindings: all that an engine needs which brings neither."""

import ctypes
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmruntime.backends.base import engine_module
from rmruntime.errors import BackendError, DeviceMemoryError

MODULE = "cuda.bindings.runtime"
ALIGNMENT = 256  # bytes; what cudaMalloc gives and TensorRT asks of every tensor's address
LEAST_SIZE = 1 << 16


class CudaMemory:
    """The device of that number, with a stream of its own.

    CUDA's current device belongs to the calling thread: call `use` before anything else in a thread. Methods raise
    BackendError with CUDA's message, DeviceMemoryError where memory is exhausted. Those that free raise nothing: their
    errors are those of earlier work, which was told of, and would hide it.
    """

    def __init__(self, index: int) -> None:
        self._cuda = engine_module(MODULE)
        self._index = index
        self.use()
        self._stream = self._call("cudaStreamCreateWithFlags", self._cuda.cudaStreamNonBlocking)

    @property
    def stream(self) -> int:
        """The stream's handle as a number."""
        return int(self._stream)

    def use(self) -> None:
        """Make the device the calling thread's."""
        self._call("cudaSetDevice", self._index)

    def free_bytes(self) -> int:
        """What the device has left."""
        free, _ = self._call("cudaMemGetInfo")
        return int(free)

    def synchronize(self) -> None:
        """Wait for everything on the stream."""
        self._call("cudaStreamSynchronize", self._stream)

    def allocate(self, size: int) -> int:
        """The address of `size` bytes on the device."""
        return int(self._call("cudaMalloc", size))

    def free(self, address: int) -> None:
        self._release("cudaFree", address)

    def allocate_host(self, size: int) -> int:
        """The address of `size` page-locked bytes of the host, which copies need in order not to block."""
        return int(self._call("cudaHostAlloc", size, 0))

    def free_host(self, address: int) -> None:
        self._release("cudaFreeHost", address)

    def upload(self, device: int, host: int, size: int) -> None:
        """Copy to the device, on the stream."""
        self._call("cudaMemcpyAsync", device, host, size, self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice, self.stream)

    def download(self, host: int, device: int, size: int) -> None:
        """Copy from the device, on the stream."""
        self._call("cudaMemcpyAsync", host, device, size, self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost, self.stream)

    def close(self) -> None:
        """Destroy the stream."""
        self._release("cudaStreamDestroy", self._stream)

    def _call(self, function: str, *arguments: Any) -> Any:
        """A function's result, a tuple of them where it has several."""
        status, *results = getattr(self._cuda, function)(*arguments)
        if status != self._cuda.cudaError_t.cudaSuccess:
            raise self._error(function, status)
        return results[0] if len(results) == 1 else tuple(results)

    def _release(self, function: str, *arguments: Any) -> None:
        with suppress(BackendError):
            self._call(function, *arguments)

    def _error(self, function: str, status: Any) -> BackendError:
        _, text = self._cuda.cudaGetErrorString(status)
        self._cuda.cudaGetLastError()  # else the next to ask, maybe the engine, takes this error for its own
        message = f"cuda:{self._index}: {text.decode()} ({function}, cudaError {int(status)})"
        if status == self._cuda.cudaError_t.cudaErrorInsufficientDriver:
            return BackendError(f"{message}; update the NVIDIA driver, or install packages for the CUDA that it serves")
        exhausted = status == self._cuda.cudaError_t.cudaErrorMemoryAllocation
        return DeviceMemoryError(message) if exhausted else BackendError(message)


class StagedArrays:
    """Arrays side by side, on the device and page-locked on the host: one copy moves them all. Grows as it must."""

    def __init__(self, memory: CudaMemory) -> None:
        self._memory = memory
        self._size = self._used = self._device = self._host = 0
        self._offsets: list[int] = []

    def lay_out(self, shapes: Sequence[tuple[int, ...]], dtypes: Sequence[np.dtype[Any]]) -> list[NDArray[Any]]:
        """The host's side of arrays of these shapes, to be filled or read; what was there before is lost.

        The stream must be idle. Raises DeviceMemoryError where the device has no room.
        """
        counts = [int(np.prod(shape, dtype=np.int64)) for shape in shapes]
        sizes = [count * dtype.itemsize for count, dtype in zip(counts, dtypes, strict=True)]
        self._offsets, self._used = [], 0
        for size in sizes:
            self._offsets.append(self._used)
            self._used += -(-size // ALIGNMENT) * ALIGNMENT
        self._reserve(self._used)
        views = [_bytes_at(self._host + at, size) for at, size in zip(self._offsets, sizes, strict=True)]
        return [v.view(dtype).reshape(shape) for v, dtype, shape in zip(views, dtypes, shapes, strict=True)]

    @property
    def addresses(self) -> list[int]:
        """Where the arrays lie on the device, each at a multiple of ALIGNMENT."""
        return [self._device + offset for offset in self._offsets]

    def upload(self) -> None:
        """All arrays from the host to the device, on the stream."""
        if self._used:
            self._memory.upload(self._device, self._host, self._used)

    def download(self) -> None:
        """All arrays from the device to the host, on the stream."""
        if self._used:
            self._memory.download(self._host, self._device, self._used)

    def close(self) -> None:
        """Free both sides."""
        device, host, self._device, self._host, self._size = self._device, self._host, 0, 0, 0
        if device:
            self._memory.free(device)
        if host:
            self._memory.free_host(host)

    def _reserve(self, size: int) -> None:
        if size <= self._size:
            return
        self.close()
        size = max(LEAST_SIZE, 1 << (size - 1).bit_length())
        self._device = self._memory.allocate(size)
        self._host = self._memory.allocate_host(size)
        self._size = size


def _bytes_at(address: int, size: int) -> NDArray[np.uint8]:
    """The host's memory there; nothing keeps it from being freed."""
    if not size:
        return np.empty(0, np.uint8)
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
