"""cuda.bindings.runtime without a GPU: the device's memory is the host's, and a stream does its work when waited for.

Work that is late shows what a real stream may show: inputs overwritten, outputs read, or memory freed too early.
"""

import ctypes
import threading
from collections.abc import Callable
from enum import IntEnum
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np

ALIGNMENT = 256


class cudaError_t(IntEnum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorIllegalAddress = 700


class cudaMemcpyKind(IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class FakeCuda(ModuleType):
    """The module. `capacity` bytes can be allocated on the device; `failures` are the next codes of a function."""

    cudaError_t, cudaMemcpyKind = cudaError_t, cudaMemcpyKind
    cudaStreamNonBlocking = 1

    def __init__(self, capacity: int = 1 << 30) -> None:
        super().__init__("cuda.bindings.runtime")
        self.__spec__ = ModuleSpec(self.__name__, None)
        self.capacity = capacity
        self.device: dict[int, np.ndarray] = {}
        self.host: dict[int, np.ndarray] = {}
        self.streams: dict[int, list[Callable[[], None]]] = {}
        self.calls: list[str] = []
        self.failures: dict[str, list[cudaError_t]] = {}
        self._current = threading.local()
        self._last = cudaError_t.cudaSuccess

    @property
    def used(self) -> int:
        return sum(array.size - ALIGNMENT for array in self.device.values())

    @property
    def pending_error(self) -> bool:
        """Whether an error is left for the next who asks."""
        return self._last != cudaError_t.cudaSuccess

    def cudaSetDevice(self, index: int) -> tuple[Any, ...]:
        self._current.index = index
        return (self._status("cudaSetDevice"),)

    def cudaMemGetInfo(self) -> tuple[Any, ...]:
        return self._status("cudaMemGetInfo"), self.capacity - self.used, self.capacity

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        if self.used + size > self.capacity:
            return self._failed(cudaError_t.cudaErrorMemoryAllocation), None
        return self._allocated("cudaMalloc", self.device, size)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[Any, ...]:
        return self._allocated("cudaHostAlloc", self.host, size)

    def cudaFree(self, address: int) -> tuple[Any, ...]:
        self.device.pop(address).fill(0xFF)
        return (self._status("cudaFree"),)

    def cudaFreeHost(self, address: int) -> tuple[Any, ...]:
        self.host.pop(address).fill(0xFF)
        return (self._status("cudaFreeHost"),)

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: int, stream: int) -> tuple[Any, ...]:
        to_device = kind == cudaMemcpyKind.cudaMemcpyHostToDevice
        self._check_range(self.device if to_device else self.host, target, size)
        self._check_range(self.host if to_device else self.device, source, size)
        self.streams[stream].append(lambda: ctypes.memmove(target, source, size) and None)
        return (self._status("cudaMemcpyAsync"),)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        assert flags == self.cudaStreamNonBlocking
        handle = 1000 + len(self.streams)
        self.streams[handle] = []
        return self._status("cudaStreamCreateWithFlags"), handle

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any, ...]:
        work, self.streams[stream] = self.streams[stream], []
        for step in work:
            step()
        return (self._status("cudaStreamSynchronize"),)

    def cudaStreamDestroy(self, stream: int) -> tuple[Any, ...]:
        del self.streams[stream]
        return (self._status("cudaStreamDestroy"),)

    def cudaGetErrorString(self, status: cudaError_t) -> tuple[Any, ...]:
        texts = {cudaError_t.cudaErrorMemoryAllocation: b"out of memory"}
        return cudaError_t.cudaSuccess, texts.get(status, b"something went wrong")

    def cudaGetLastError(self) -> tuple[Any, ...]:
        last, self._last = self._last, cudaError_t.cudaSuccess
        return (last,)

    def enqueue(self, stream: int, step: Callable[[], None]) -> None:
        """What a kernel would do."""
        self.streams[stream].append(step)

    def current_device(self) -> int:
        """Of the calling thread; 0 where nobody set it."""
        return int(getattr(self._current, "index", 0))

    def on_device(self, address: int, size: int) -> np.ndarray:
        """The device's bytes there, which must have been allocated."""
        self._check_range(self.device, address, size)
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address)) if size else np.empty(0, np.uint8)

    def _status(self, function: str) -> cudaError_t:
        self.calls.append(function)
        planned = self.failures.get(function)
        return self._failed(planned.pop(0)) if planned else cudaError_t.cudaSuccess

    def _failed(self, status: cudaError_t) -> cudaError_t:
        self._last = status
        return status

    def _allocated(self, function: str, kind: dict[int, np.ndarray], size: int) -> tuple[Any, ...]:
        status = self._status(function)
        if status:
            return status, None
        array = np.full(size + ALIGNMENT, 0xFF, np.uint8)
        address = -(-array.ctypes.data // ALIGNMENT) * ALIGNMENT
        kind[address] = array
        return status, address

    def _check_range(self, kind: dict[int, np.ndarray], address: int, size: int) -> None:
        assert any(start <= address and address + size <= start + a.size - ALIGNMENT for start, a in kind.items()), (
            f"{size} bytes at {address:#x} were not allocated there"
        )
