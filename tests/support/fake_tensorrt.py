"""TensorRT without a GPU: an "engine" names an fp32 graph, which ONNX Runtime computes on the CPU."""

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest

from fake_cuda_runtime import ALIGNMENT, FakeCuda
from rmruntime.bundle import Bundle
from rmruntime.bundle.engine_record import (
    ENGINE_NAME,
    RECORD_NAME,
    EngineRecord,
    Extent,
    Profile,
    encode_record,
    manifest_digest,
)
from rmruntime.devices.cuda_driver import CudaDevice

DEVICE = CudaDevice(index=0, name="NVIDIA H200", compute_capability=(9, 0), total_memory=150_000_000_000)
DIMENSIONS = ("T", "R", "Sq", "Sk", "N", "P", "read_R", "read_Sq", "read_Sk")


def profile(name: str, tokens: int, rows: int, keys: int = 512) -> Profile:
    """Up to `tokens` tokens, rows of every kind, and keys."""
    most = dict.fromkeys(DIMENSIONS, rows) | {"T": tokens, "Sk": keys, "read_Sk": keys, "Sq": 128, "read_Sq": 128}
    return Profile(name=name, dimensions={d: Extent(least=1, tuned=size, most=size) for d, size in most.items()})


PROFILES = (profile("throughput", 4096, 256), profile("latency", 256, 16))


def compile_engine(
    bundle: Path,
    name: str = "sm90",
    *,
    profiles: tuple[Profile, ...] = PROFILES,
    plan: Mapping[str, Any] | None = None,
    **changed: Any,
) -> EngineRecord:
    """Write an engine of the portable graph; `plan` goes to the fake, `changed` are other fields of the record."""
    manifest = Bundle.open(bundle).manifest
    graph = next(g for g in manifest.graphs if g.dialect == "portable")
    folder = bundle / "engines" / "tensorrt" / name
    folder.mkdir(parents=True)
    sizes = [{d: [e.least, e.tuned, e.most] for d, e in p.dimensions.items()} for p in profiles]
    engine = json.dumps({"graph": str(bundle / graph.file), "profiles": sizes} | dict(plan or {})).encode()
    (folder / ENGINE_NAME).write_bytes(engine)
    record = EngineRecord(
        record_version=1,
        created_by="tests",
        target="tensorrt",
        library="tensorrt",
        version="10.15.1.29",
        gpu=DEVICE.name,
        compute_capability="9.0",
        manifest=manifest_digest(bundle),
        graph=graph.file,
        compute_dtype="fp32",
        batch_tokens=4096,
        profiles=profiles,
        size=len(engine),
        sha256=hashlib.sha256(engine).hexdigest(),
    )
    record = replace(record, **changed)
    (folder / RECORD_NAME).write_bytes(encode_record(record))
    return record


@dataclass
class Machine:
    """A machine with a GPU, the driver and both packages, none of it real."""

    cuda: FakeCuda = field(default_factory=FakeCuda)
    devices: tuple[CudaDevice, ...] = (DEVICE,)
    trt: "FakeTensorRt" = field(init=False)

    def __post_init__(self) -> None:
        self.trt = FakeTensorRt(self.cuda)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        parents = {name: ModuleType(name) for name in ("cuda", "cuda.bindings")}
        for name, module in parents.items():
            module.__spec__, module.__path__ = ModuleSpec(name, None), []
        for name, module in {**parents, "cuda.bindings.runtime": self.cuda, "tensorrt": self.trt}.items():
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr("rmruntime.backends.tensorrt.cuda_device", lambda index: self.devices[index])


class DataType(IntEnum):
    FLOAT, HALF, INT32, BOOL, BF16, INT64 = 0, 1, 3, 4, 7, 8


class TensorIOMode(IntEnum):
    NONE, INPUT, OUTPUT = range(3)


class TensorLocation(IntEnum):
    DEVICE, HOST = range(2)


class SeekPosition(IntEnum):
    SET, CUR, END = range(3)


class ErrorCodeTRT(IntEnum):
    UNSPECIFIED_ERROR, FAILED_ALLOCATION = 1, 5


class IErrorRecorder:
    pass


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class IStreamReaderV2:
    pass


class FakeTensorRt(ModuleType):
    """The module. What `switches` and `shapes` list is what the context was told; `refuse` is the next pass's error."""

    DataType, TensorIOMode, TensorLocation = DataType, TensorIOMode, TensorLocation
    SeekPosition, ErrorCodeTRT = SeekPosition, ErrorCodeTRT
    IErrorRecorder, ILogger, IStreamReaderV2 = IErrorRecorder, ILogger, IStreamReaderV2

    def __init__(self, cuda: FakeCuda) -> None:
        super().__init__("tensorrt")
        self.__spec__ = ModuleSpec("tensorrt", None)
        self.__version__ = "10.15.1.29"
        self.cuda = cuda
        self.switches: list[int] = []
        self.reads: list[int] = []
        self.shapes: list[dict[str, tuple[int, ...]]] = []
        self.devices: list[int] = []
        self.refuse: list[tuple[ErrorCodeTRT, str]] = []
        self.alive: set[str] = set()

    def Runtime(self, logger: Any) -> "Runtime":
        return Runtime(self, logger)


class Counted:
    """Something whose end is seen."""

    def __init__(self, trt: FakeTensorRt) -> None:
        self.trt, self.error_recorder = trt, None
        trt.alive.add(type(self).__name__)

    def __del__(self) -> None:
        self.trt.alive.discard(type(self).__name__)


class Runtime(Counted):
    def __init__(self, trt: FakeTensorRt, logger: Any) -> None:
        super().__init__(trt)
        self.logger = logger

    def deserialize_cuda_engine(self, reader: Any) -> "Engine | None":
        """Header first, then the rest, as from a real plan: the reader is told where to go on."""
        assert reader.seek(0, SeekPosition.SET)
        header = self._read(reader, 8)
        rest, size = b"", 1
        while size:
            size = len(part := self._read(reader, 1 << 30))
            rest += part
        try:
            plan = json.loads(header + rest)
        except ValueError:
            self.error_recorder.report_error(ErrorCodeTRT.UNSPECIFIED_ERROR, "magic tag does not match")
            return None
        self.logger.log(ILogger.INFO, "Loaded engine")
        return Engine(self.trt, plan)

    def _read(self, reader: Any, size: int) -> bytes:
        found = bytes(reader.read(size, 0))
        self.trt.reads.append(len(found))
        return found


class Engine(Counted):
    def __init__(self, trt: FakeTensorRt, plan: Mapping[str, Any]) -> None:
        super().__init__(trt)
        self.plan = plan
        self.session = onnxruntime.InferenceSession(plan["graph"], providers=["CPUExecutionProvider"])
        self.inputs = {i.name: i.shape for i in self.session.get_inputs()}
        self.outputs = {o.name: o.shape for o in self.session.get_outputs()}
        self.num_io_tensors = len(self.inputs) + len(self.outputs)
        self.num_optimization_profiles = len(plan["profiles"])
        self.device_memory_size_v2 = plan.get("activations", 1000)

    def get_tensor_name(self, i: int) -> str:
        return [*self.inputs, *self.outputs][i]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        default = "INT64" if name in self.inputs else "FLOAT"
        return DataType[self.plan.get("dtypes", {}).get(name, default)]

    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation.HOST if name in self.plan.get("host", ()) else TensorLocation.DEVICE

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        sizes = self.plan["profiles"][index]
        return [tuple(sizes[d][k] for d in self.inputs[name]) for k in range(3)]

    def create_execution_context(self) -> "Context | None":
        if self.plan.get("no_context"):
            self.error_recorder.report_error(ErrorCodeTRT.FAILED_ALLOCATION, "Requested amount of GPU memory")
            return None
        return Context(self)


class Context(Counted):
    def __init__(self, engine: Engine) -> None:
        super().__init__(engine.trt)
        self.engine, self.selected = engine, 0
        self.given: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        assert stream in self.trt.cuda.streams
        self.trt.switches.append(index)
        self.selected, self.given = index, {}
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self.engine.get_tensor_profile_shape(name, self.selected)
        self.given[name] = tuple(shape)
        return all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True))

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert address % ALIGNMENT == 0
        self.addresses[name] = address
        return True

    def infer_shapes(self) -> list[str]:
        return [name for name in self.engine.inputs if name not in self.given]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name in self.engine.inputs:
            return self.given[name]
        sizes: dict[Any, int] = {}
        for given, shape in self.given.items():
            for dimension, size in zip(self.engine.inputs[given], shape, strict=True):
                assert sizes.setdefault(dimension, size) == size, f"{given}: {dimension} is {size}, and not"
        return tuple(sizes.get(d, -1) if isinstance(d, str) else d for d in self.engine.outputs[name])

    def execute_async_v3(self, stream: int) -> bool:
        if self.trt.refuse:
            self.error_recorder.report_error(*self.trt.refuse.pop(0))
            return False
        self.trt.shapes.append(dict(self.given))
        self.trt.devices.append(self.trt.cuda.current_device())
        shapes = {name: self.get_tensor_shape(name) for name in (*self.engine.inputs, *self.engine.outputs)}
        addresses = dict(self.addresses)
        self.trt.cuda.enqueue(stream, lambda: self._compute(shapes, addresses))
        return True

    def _compute(self, shapes: Mapping[str, tuple[int, ...]], addresses: Mapping[str, int]) -> None:
        feeds = {n: self._tensor(n, shapes[n], addresses[n]).astype(np.int64) for n in self.engine.inputs}
        found = self.engine.session.run(list(self.engine.outputs), feeds)
        for name, array in zip(self.engine.outputs, found, strict=True):
            self._tensor(name, shapes[name], addresses[name])[...] = array

    def _tensor(self, name: str, shape: tuple[int, ...], address: int) -> np.ndarray:
        dtypes = {"INT64": np.int64, "INT32": np.int32, "FLOAT": np.float32, "HALF": np.float16}
        dtype = np.dtype(dtypes[self.engine.get_tensor_dtype(name).name])
        return self.trt.cuda.on_device(address, int(np.prod(shape)) * dtype.itemsize).view(dtype).reshape(shape)
