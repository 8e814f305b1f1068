"""Device memory through CUDA's runtime: every array where it belongs, errors in words, nothing left behind."""

import sys
from collections.abc import Iterator

import numpy as np
import pytest

from fake_cuda_runtime import FakeCuda, cudaError_t
from rmruntime import BackendError
from rmruntime.backends._cuda_memory import ALIGNMENT, CudaMemory, StagedArrays
from rmruntime.errors import DeviceMemoryError

FUNCTIONS = (
    "cudaSetDevice cudaMemGetInfo cudaMalloc cudaFree cudaHostAlloc cudaFreeHost cudaMemcpyAsync "
    "cudaStreamCreateWithFlags cudaStreamSynchronize cudaStreamDestroy cudaGetErrorString cudaGetLastError"
)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", fake)
    return fake


@pytest.fixture
def memory(cuda: FakeCuda) -> Iterator[CudaMemory]:
    memory = CudaMemory(2)
    yield memory
    memory.close()
    assert not cuda.device and not cuda.host and not cuda.streams


def test_the_device_is_the_one_asked_for(cuda: FakeCuda, memory: CudaMemory) -> None:
    assert cuda.current_device() == 2
    assert memory.free_bytes() == cuda.capacity
    assert memory.stream in cuda.streams


def test_arrays_of_all_types_go_there_and_back_in_one_copy(cuda: FakeCuda, memory: CudaMemory) -> None:
    arrays = [np.arange(7), np.ones((2, 3), np.float32), np.empty((0, 5), np.int32), np.array([True, False, True])]
    staged = StagedArrays(memory)
    places = staged.lay_out([a.shape for a in arrays], [a.dtype for a in arrays])
    assert all(address % ALIGNMENT == 0 for address in staged.addresses)
    for place, array in zip(places, arrays, strict=True):
        place[...] = array
    staged.upload()
    memory.synchronize()
    for address, array in zip(staged.addresses, arrays, strict=True):
        there = cuda.on_device(address, array.nbytes)
        assert there.tobytes() == array.tobytes()
    for place in places:
        place[...] = 0
    staged.download()
    memory.synchronize()
    for place, array in zip(places, arrays, strict=True):
        np.testing.assert_array_equal(place, array)
    assert cuda.calls.count("cudaMemcpyAsync") == 2
    staged.close()


def test_buffers_grow_and_are_used_again(cuda: FakeCuda, memory: CudaMemory) -> None:
    staged, int64 = StagedArrays(memory), np.dtype(np.int64)
    for size in (10, 10, 20_000, 100, 20_000):
        staged.lay_out([(size,)], [int64])
    assert cuda.calls.count("cudaMalloc") == cuda.calls.count("cudaHostAlloc") == 2
    assert cuda.used == 1 << 18  # 160 kB in the next power of two; the smaller one is gone
    staged.close()
    staged.close()


@pytest.mark.parametrize("function", ["cudaMalloc", "cudaHostAlloc"])
def test_no_memory_is_left(cuda: FakeCuda, memory: CudaMemory, function: str) -> None:
    """The error is taken from CUDA's hands, and the buffer can be tried again."""
    staged = StagedArrays(memory)
    cuda.failures[function] = [cudaError_t.cudaErrorMemoryAllocation]
    with pytest.raises(DeviceMemoryError, match=rf"cuda:2: out of memory \({function}, cudaError 2\)"):
        staged.lay_out([(9,)], [np.dtype(np.int64)])
    assert not cuda.pending_error
    staged.lay_out([(9,)], [np.dtype(np.int64)])
    staged.close()


def test_other_errors_have_their_number(cuda: FakeCuda, memory: CudaMemory) -> None:
    cuda.failures["cudaStreamSynchronize"] = [cudaError_t.cudaErrorIllegalAddress]
    with pytest.raises(BackendError, match="cudaStreamSynchronize, cudaError 700") as caught:
        memory.synchronize()
    assert not isinstance(caught.value, DeviceMemoryError)


def test_the_interface_exists_in_cuda_bindings() -> None:
    cuda = pytest.importorskip("cuda.bindings.runtime")
    assert all(callable(getattr(cuda, name)) for name in FUNCTIONS.split())
    assert (int(cuda.cudaStreamNonBlocking), int(cuda.cudaStream_t(12345))) == (1, 12345)
    assert [int(getattr(cuda.cudaError_t, code.name)) for code in cudaError_t] == list(cudaError_t)
    assert cuda.cudaMemcpyKind.cudaMemcpyHostToDevice == 1 and cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost == 2
    status, text = cuda.cudaGetErrorString(cuda.cudaError_t.cudaErrorMemoryAllocation)
    assert (status, text) == (cuda.cudaError_t.cudaSuccess, b"out of memory")
