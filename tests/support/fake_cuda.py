"""A GPU that is not there: the driver's library as ctypes calls it, and onnxruntime with a CUDA provider.

The fake provider computes on the CPU, with the real onnxruntime and the graph that it is given, so its scores are
scores; what a real provider would have been told is recorded.
"""

import ctypes
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import onnxruntime

GB = 10**9
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
SHRINKAGE = "memory.enable_memory_arena_shrinkage"


@dataclass
class FakeDriver:
    """libcuda with GPUs of one kind. `fails` maps a function to the CUresult that it returns."""

    count: int = 1
    capability: tuple[int, int] = (9, 0)
    version: int = 13000
    free: int = 90 * GB
    total: int = 100 * GB
    fails: dict[str, int] = field(default_factory=dict)
    contexts: int = 0
    copies: int = 0
    current: int = 0

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cu"):
            raise AttributeError(name)
        return lambda *arguments: self.fails.get(name, 0) or self._do(name, [_target(a) for a in arguments])

    def _do(self, name: str, a: list[Any]) -> int:
        if name == "cuDriverGetVersion":
            a[0].value = self.version
        elif name == "cuDeviceGetCount":
            a[0].value = self.count
        elif name == "cuDeviceGet":
            a[0].value = a[1]
        elif name == "cuDeviceGetName":
            a[0].value = f"Fake GPU {a[2].value}".encode()
        elif name == "cuDeviceTotalMem_v2":
            a[0].value = self.total
        elif name == "cuDeviceGetAttribute":
            a[0].value = self.capability[{75: 0, 76: 1}[a[1]]]
        elif name == "cuGetErrorName":
            a[1].value = b"CUDA_ERROR_FAKE"
        elif name in ("cuMemcpyDtoDAsync_v2", "cuMemsetD8Async", "cuStreamSynchronize"):
            self._on_memory(name, a)
        else:
            self._context(name, a)
        return 0

    def _on_memory(self, name: str, a: list[Any]) -> None:
        """Of the CPU, where the fake runtime's tensors are."""
        assert self.current and a[-1] is None, "there is no current context"
        if name == "cuStreamSynchronize":
            return
        self.copies += 1
        function = ctypes.memset if name == "cuMemsetD8Async" else ctypes.memmove
        function(*(x.value for x in a[:3]))

    def _context(self, name: str, a: list[Any]) -> None:
        if name == "cuDevicePrimaryCtxRetain":
            a[0].value, self.contexts = 4096, self.contexts + 1
        elif name == "cuDevicePrimaryCtxRelease_v2":
            self.contexts -= 1
        elif name == "cuCtxPushCurrent_v2":
            assert a[0].value == 4096 and self.contexts
            self.current += 1
        elif name == "cuCtxPopCurrent_v2":
            self.current -= 1
        elif name == "cuMemGetInfo_v2":
            assert self.current, "there is no current context"
            a[0].value, a[1].value = self.free, self.total
        else:
            assert name == "cuInit", name


def _target(argument: Any) -> Any:
    """What byref() points to."""
    return getattr(argument, "_obj", argument)


@dataclass
class FakeOnnxRuntime:
    """onnxruntime-gpu as a module. `missing` libraries keep the provider from loading, which it then leaves out.

    `on_host`: operators that it places on the CPU. `failures`: what the next passes raise, None for a pass that runs.
    `short_of_memory`: it makes no tensors on the device.
    """

    missing: tuple[str, ...] = ()
    built_with: tuple[str, ...] = (CUDA, CPU)
    cuda_version: str = "13.0"
    on_host: tuple[str, ...] = ()
    cannot_open: Exception | None = None
    failures: list[Exception | None] = field(default_factory=list)
    short_of_memory: bool = False
    sessions: list["FakeSession"] = field(default_factory=list)

    __version__ = "1.31.1"
    SessionOptions = onnxruntime.SessionOptions
    RunOptions = onnxruntime.RunOptions

    @property
    def OrtValue(self) -> Any:
        """Named as in onnxruntime."""
        made = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type
        return SimpleNamespace(
            ortvalue_from_numpy_with_onnx_type=made,
            ortvalue_from_numpy=self._on_the_device,
            ortvalue_from_shape_and_type=self._of_a_shape,
        )

    def _of_a_shape(self, shape: list[int], onnx_type: int, device: str, index: int) -> Any:
        assert device == "cuda"
        if self.short_of_memory:
            raise RuntimeError("Failed to allocate memory for requested buffer")
        return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, onnx_type, "cpu", 0)

    def _on_the_device(self, array: Any, device: str, index: int) -> None:
        assert device == "cuda"
        if self.missing:
            raise RuntimeError("provider_bridge_ort.cc:2465 CUDA Provider not available, can't get interface for it")

    def get_available_providers(self) -> list[str]:
        return list(self.built_with)

    def set_default_logger_severity(self, severity: int) -> None:
        pass

    def preload_dlls(self) -> None:
        for library in self.missing:
            sys.stdout.write(f"Failed to load {library}: {library}: cannot open shared object file\n")

    def InferenceSession(self, path: str, settings: Any, **given: Any) -> "FakeSession":
        """Named as in onnxruntime."""
        if self.cannot_open is not None:
            raise self.cannot_open
        self.sessions.append(FakeSession(self, path, settings, given))
        return self.sessions[-1]


class FakeSession:
    """A session of the real onnxruntime on the CPU that says it is on a GPU; `given` are its arguments.

    `bound` and `fetched` count the inputs and outputs of each pass, `tidied` says which passes shrink the arena.
    """

    def __init__(self, module: FakeOnnxRuntime, path: str, settings: Any, given: dict[str, Any]) -> None:
        self.module, self.path, self.settings, self.given = module, path, settings, given
        self.bound: list[dict[str, int]] = []
        self.fetched: list[dict[str, str]] = []
        self.tidied: list[bool] = []
        self.real: Any = onnxruntime.InferenceSession(
            path, settings, providers=[CPU], disabled_optimizers=given["disabled_optimizers"]
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def get_providers(self) -> list[str]:
        return [CPU] if self.module.missing else [CUDA, CPU]

    def get_provider_graph_assignment_info(self) -> list[Any]:
        return [
            SimpleNamespace(ep_name=CPU if node.op_type in self.module.on_host else CUDA, get_nodes=lambda n=node: [n])
            for part in self.real.get_provider_graph_assignment_info()
            for node in part.get_nodes()
        ]

    def io_binding(self) -> "FakeBinding":
        return FakeBinding(self.real.io_binding())

    def run_with_iobinding(self, binding: "FakeBinding", options: Any) -> None:
        try:
            self.tidied.append(bool(options.get_run_config_entry(SHRINKAGE)))
        except RuntimeError:  # it has no such entry
            self.tidied.append(False)
        if binding.broken:
            raise RuntimeError("mapped_feed_names_.size() == feed_names_.size() was false. Size mismatch:17!=16")
        failure = self.module.failures.pop(0) if self.module.failures else None
        if failure is not None:
            binding.broken = True
            raise failure
        self.bound.append(binding.bound)
        self.fetched.append(binding.fetched)
        binding.bound, binding.fetched = {}, {}
        self.real.run_with_iobinding(binding.real)


class FakeBinding:
    """An IOBinding on the CPU; `bound` counts how often each input was bound since the last pass.

    `broken`: memory ran out while it was filled, after which onnxruntime refuses it.
    """

    def __init__(self, real: Any) -> None:
        self.real = real
        self.broken = False
        self.bound: dict[str, int] = {}
        self.fetched: dict[str, str] = {}

    def bind_cpu_input(self, name: str, array: Any) -> None:
        self.bound[name] = self.bound.get(name, 0) + 1
        self.real.bind_cpu_input(name, array)

    def bind_ortvalue_input(self, name: str, value: Any) -> None:
        self.bound[name] = self.bound.get(name, 0) + 1
        self.real.bind_ortvalue_input(name, value)

    def bind_output(self, name: str, device: str, index: int) -> None:
        self.fetched[name] = device if device == "cpu" else f"{device}:{index}"
        self.real.bind_output(name, "cpu", 0)

    def get_outputs(self) -> Sequence[Any]:
        outputs: Sequence[Any] = self.real.get_outputs()
        return outputs


def missing_driver(*arguments: Any) -> Any:
    """ctypes.CDLL where there is no driver."""
    raise OSError("libcuda.so.1: cannot open shared object file: No such file or directory")
