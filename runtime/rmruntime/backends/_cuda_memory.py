"""Memory of a CUDA device and a stream, through cuda-bindings, for engines that come with neither."""

import ctypes
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmruntime.backends.base import engine_module
from rmruntime.errors import BackendError, DeviceMemoryError

MODULE = "cuda.bindings.runtime"
ALIGNMENT = 256  # bytes; cudaMalloc's alignment, which TensorRT requires of every tensor's address
LEAST_SIZE = 1 << 16


class CudaMemory:
    """The memory of the device number `index`, and a stream on it.

    CUDA's current device is a setting per thread: call `use` before anything else in a thread. Methods raise
    BackendError with CUDA's message, DeviceMemoryError where memory is exhausted. Methods that free memory raise
    nothing: they would only repeat the error of earlier work, and hide the original one.
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
        """Make the device the calling thread's current one."""
        self._call("cudaSetDevice", self._index)

    def free_bytes(self) -> int:
        """The device's free memory, in bytes."""
        free, _ = self._call("cudaMemGetInfo")
        return int(free)

    def synchronize(self) -> None:
        """Wait until all work on the stream is done."""
        self._call("cudaStreamSynchronize", self._stream)

    def allocate(self, size: int) -> int:
        """Allocate `size` bytes on the device; returns their address."""
        return int(self._call("cudaMalloc", size))

    def free(self, address: int) -> None:
        self._release("cudaFree", address)

    def allocate_host(self, size: int) -> int:
        """Allocate `size` page-locked bytes on the host, which asynchronous copies need; returns their address."""
        return int(self._call("cudaHostAlloc", size, 0))

    def free_host(self, address: int) -> None:
        self._release("cudaFreeHost", address)

    def upload(self, device: int, host: int, size: int) -> None:
        """Copy `size` bytes from the address `host` to the address `device`, on the stream."""
        self._call("cudaMemcpyAsync", device, host, size, self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice, self.stream)

    def download(self, host: int, device: int, size: int) -> None:
        """Copy `size` bytes from the address `device` to the address `host`, on the stream."""
        self._call("cudaMemcpyAsync", host, device, size, self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost, self.stream)

    def close(self) -> None:
        """Destroy the stream."""
        self._release("cudaStreamDestroy", self._stream)

    def _call(self, function: str, *arguments: Any) -> Any:
        """Call a CUDA function; returns its result, or a tuple where it has several."""
        status, *results = getattr(self._cuda, function)(*arguments)
        if status != self._cuda.cudaError_t.cudaSuccess:
            raise self._error(function, status)
        return results[0] if len(results) == 1 else tuple(results)

    def _release(self, function: str, *arguments: Any) -> None:
        with suppress(BackendError):
            self._call(function, *arguments)

    def _error(self, function: str, status: Any) -> BackendError:
        _, text = self._cuda.cudaGetErrorString(status)
        self._cuda.cudaGetLastError()  # clears it; else the next caller, maybe the engine, takes it for its own error
        message = f"cuda:{self._index}: {text.decode()} ({function}, cudaError {int(status)})"
        if status == self._cuda.cudaError_t.cudaErrorInsufficientDriver:
            return BackendError(f"{message}; update the NVIDIA driver, or install packages for its version of CUDA")
        exhausted = status == self._cuda.cudaError_t.cudaErrorMemoryAllocation
        return DeviceMemoryError(message) if exhausted else BackendError(message)


class StagedArrays:
    """Arrays side by side in one buffer on the device and one, page-locked, on the host: one copy moves them all.

    The buffers grow when arrays need more space.
    """

    def __init__(self, memory: CudaMemory) -> None:
        self._memory = memory
        self._size = self._used = self._device = self._host = 0
        self._offsets: list[int] = []

    def lay_out(self, shapes: Sequence[tuple[int, ...]], dtypes: Sequence[np.dtype[Any]]) -> list[NDArray[Any]]:
        """Arrays of these shapes in the host's buffer, to be filled or read; replaces the arrays before.

        The stream must be idle. Raises DeviceMemoryError where the device has too little memory.
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
        """The arrays' addresses on the device, each a multiple of ALIGNMENT."""
        return [self._device + offset for offset in self._offsets]

    def upload(self) -> None:
        """Copy all arrays from the host to the device, on the stream."""
        if self._used:
            self._memory.upload(self._device, self._host, self._used)

    def download(self) -> None:
        """Copy all arrays from the device to the host, on the stream."""
        if self._used:
            self._memory.download(self._host, self._device, self._used)

    def close(self) -> None:
        """Free both buffers."""
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
    """An array over `size` bytes of host memory at `address`; it does not keep the memory from being freed."""
    if not size:
        return np.empty(0, np.uint8)
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
