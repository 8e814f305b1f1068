"""A TensorRT engine on one device: read from its file, and run in passes through one execution context.

The packages `tensorrt` (10.15 and newer) and `tensorrt_rtx` have one interface; everything used here is in both.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmruntime.backends._cuda_memory import CudaMemory, StagedArrays
from rmruntime.backends._tensorrt_log import Messages, error_recorder, logger
from rmruntime.backends.base import engine_module
from rmruntime.bundle.regular_files import open_regular
from rmruntime.devices.host_memory import NARROWER
from rmruntime.errors import BackendError, DeviceMemoryError, PassTooLarge

Arrays = Mapping[str, NDArray[Any]]
Shapes = Mapping[str, tuple[int, ...]]

CHUNK = 64 << 20  # bytes of an engine's file that are in host memory at a time
DTYPES = {"INT64": np.int64, "INT32": np.int32, "BOOL": np.bool_, "FLOAT": np.float32, "HALF": np.float16}
ADVICE = f"compile the engine with a smaller --max-batch-tokens, or take a GPU with more memory, or {NARROWER}"


@dataclass(frozen=True)
class SizeProfile:
    """The least and the largest shapes of the inputs, by name, that the engine's optimization profile `index` takes."""

    index: int
    least: Shapes
    most: Shapes

    @property
    def elements(self) -> int:
        """How many elements all inputs have together, at their largest shapes."""
        return sum(int(np.prod(shape, dtype=np.int64)) for shape in self.most.values())

    def holds(self, shapes: Shapes) -> bool:
        return not self.excess(shapes) and not _outside(shapes, self.least, lambda size, least: size < least)

    def excess(self, shapes: Shapes) -> list[str]:
        """The inputs that are larger than the profile takes, described for a message."""
        return _outside(shapes, self.most, lambda size, most: size > most)


class TensorRtEngine:
    """The engine in the file `path`, loaded by the package `library`.

    Raises DeviceMemoryError where the device, or `memory_limit` bytes of it, is too small for the weights and the
    activations of the largest pass, and BackendError with TensorRT's own messages where the engine does not load.
    """

    def __init__(self, library: str, path: Path, memory: CudaMemory, *, memory_limit: int | None = None) -> None:
        self._trt, self._library, self._memory = engine_module(library), library, memory
        self._messages = Messages()
        self._recorder, self._logger = error_recorder(self._trt, self._messages), logger(self._trt, self._messages)
        self._limit = memory_limit if memory_limit is not None else memory.free_bytes()
        self._require(path.stat().st_size, "weights", self._limit)
        self._runtime: Any = self._trt.Runtime(self._logger)
        self._runtime.error_recorder = self._recorder
        self._engine: Any = self._deserialize(path)
        self._context: Any = self._make_context(self._limit - path.stat().st_size)
        self._inputs, self._outputs = self._bindings("INPUT"), self._bindings("OUTPUT")
        self._profiles = sorted(self._read_profiles(), key=lambda profile: profile.elements)
        self._selected: SizeProfile | None = None
        self._staged_inputs, self._staged_outputs = StagedArrays(memory), StagedArrays(memory)

    def run(self, feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        """One pass; the outputs are new arrays of fp32.

        Raises PassTooLarge where no profile takes the inputs, DeviceMemoryError, BackendError with TensorRT's messages.
        """
        self._memory.use()
        self._memory.synchronize()  # a pass that failed may have left copies running
        self._messages.clear()
        given = {name: np.asarray(self._given(feeds, name)) for name in self._inputs}
        self._select(self._profile_for({name: array.shape for name, array in given.items()}))
        self._upload(given)
        found = self._place_outputs()
        if not self._context.execute_async_v3(self._memory.stream):
            raise self._failure("cannot compute a pass")
        self._staged_outputs.download()
        self._memory.synchronize()
        return {name: array.astype(np.float32) for name, array in found.items()}

    def close(self) -> None:
        """Free the engine and its buffers; a device that was lost is no error here."""
        with suppress(BackendError):
            self._memory.use()
            self._memory.synchronize()  # a pass that failed may have left kernels running that use them
        self._context = self._engine = self._runtime = None  # in this order: each uses the next
        self._staged_inputs.close()
        self._staged_outputs.close()

    def _deserialize(self, path: Path) -> Any:
        with open_regular(path) as file:
            engine = self._runtime.deserialize_cuda_engine(file_reader(self._trt, file))
        if engine is None:
            raise self._failure(f"cannot load {path.name}")
        engine.error_recorder = self._recorder
        return engine

    def _make_context(self, room: int) -> Any:
        """The context with memory for the largest profile, allocated now, so that no later pass lacks it."""
        self._require(self._engine.device_memory_size_v2, "largest pass", min(room, self._memory.free_bytes()))
        context = self._engine.create_execution_context()
        if context is None:
            raise self._failure("cannot prepare to run")
        context.error_recorder = self._recorder
        return context

    def _bindings(self, mode: str) -> dict[str, np.dtype[Any]]:
        """The engine's inputs or outputs with their numpy types."""
        names = (self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors))
        wanted = getattr(self._trt.TensorIOMode, mode)
        return {name: self._dtype(name) for name in names if self._engine.get_tensor_mode(name) == wanted}

    def _dtype(self, name: str) -> np.dtype[Any]:
        kind, location = self._engine.get_tensor_dtype(name).name, self._engine.get_tensor_location(name)
        if kind not in DTYPES or location != self._trt.TensorLocation.DEVICE:
            raise BackendError(
                f"the engine has the tensor {name!r} as {kind} in {location.name.lower()} memory, where "
                f"{', '.join(DTYPES)} in device memory are supported; compile it with this version of rmexport"
            )
        return np.dtype(DTYPES[kind])

    def _read_profiles(self) -> list[SizeProfile]:
        profiles = []
        for i in range(self._engine.num_optimization_profiles):
            shapes = {name: self._engine.get_tensor_profile_shape(name, i) for name in self._inputs}
            least, _, most = ({name: tuple(three[k]) for name, three in shapes.items()} for k in range(3))
            profiles.append(SizeProfile(i, least, most))
        return profiles

    def _given(self, feeds: Arrays, name: str) -> NDArray[Any]:
        if name not in feeds:
            raise BackendError(
                f"the engine needs the input {name!r}, the pass has {', '.join(feeds)}; compile it with this version "
                "of rmexport"
            )
        return feeds[name]

    def _profile_for(self, shapes: Shapes) -> SizeProfile:
        """The smallest profile that takes these inputs; it is tuned for the nearest sizes."""
        for profile in self._profiles:
            if profile.holds(shapes):
                return profile
        if excess := min((profile.excess(shapes) for profile in reversed(self._profiles)), key=len):
            raise PassTooLarge(
                f"no profile of the engine takes {'; '.join(excess)}: compile it for larger sizes, with the options of "
                "`rmexport compile`"
            )
        raise BackendError(
            f"the engine takes no inputs as small as {dict(shapes)}; compile it with this version of rmexport"
        )

    def _select(self, profile: SizeProfile) -> None:
        if profile is self._selected:
            return
        self._selected = None
        if not self._context.set_optimization_profile_async(profile.index, self._memory.stream):
            raise self._failure(f"cannot switch to profile {profile.index}")
        self._selected = profile

    def _upload(self, given: Arrays) -> None:
        """All inputs in one copy, in the engine's types."""
        staged = self._staged_inputs.lay_out([a.shape for a in given.values()], list(self._inputs.values()))
        for array, place in zip(given.values(), staged, strict=True):
            place[...] = array
        for (name, array), address in zip(given.items(), self._staged_inputs.addresses, strict=True):
            if not self._context.set_input_shape(name, array.shape):
                raise self._failure(f"does not take {name} of shape {array.shape}")
            self._context.set_tensor_address(name, address)
        self._staged_inputs.upload()

    def _place_outputs(self) -> Arrays:
        """The host's arrays that the outputs of these inputs will be copied to."""
        try:
            missing = self._context.infer_shapes()
        except RuntimeError as error:
            raise self._failure(f"cannot tell the outputs' shapes ({error})") from error
        shapes = [tuple(self._context.get_tensor_shape(name)) for name in self._outputs]
        if missing or any(size < 0 for shape in shapes for size in shape):
            raise self._failure(f"cannot tell the outputs' shapes from the inputs' (found {shapes}, lacks {missing})")
        arrays = self._staged_outputs.lay_out(shapes, list(self._outputs.values()))
        for name, address in zip(self._outputs, self._staged_outputs.addresses, strict=True):
            self._context.set_tensor_address(name, address)
        return dict(zip(self._outputs, arrays, strict=True))

    def _require(self, size: int, what: str, room: int) -> None:
        if size > room:
            raise DeviceMemoryError(
                f"the engine's {what} need {size / 1e9:.2f} GB of the device's memory and {max(0, room) / 1e9:.2f} GB "
                f"are free: {ADVICE}"
            )

    def _failure(self, what: str) -> BackendError:
        message = f"{self._library} {what}: {self._messages}"
        return DeviceMemoryError(f"{message}: {ADVICE}") if self._messages.out_of_memory else BackendError(message)


def file_reader(trt: Any, file: Any) -> Any:
    """An IStreamReaderV2 that reads an unbuffered file; at most CHUNK bytes are in host memory at a time."""
    block = memoryview(bytearray(CHUNK))

    class Reader(trt.IStreamReaderV2):  # type: ignore[misc] # engines are untyped
        def __init__(self) -> None:
            trt.IStreamReaderV2.__init__(self)

        def read(self, size: int, stream: int) -> memoryview:
            """At most `size` bytes; TensorRT asks for the rest again."""
            return block[: file.readinto(block[: min(size, CHUNK)])]

        def seek(self, offset: int, where: Any) -> bool:
            file.seek(offset, int(where))  # numbered as os.SEEK_SET, SEEK_CUR and SEEK_END
            return True

    return Reader()


def _outside(shapes: Shapes, limits: Shapes, differs: Callable[[int, int], bool]) -> list[str]:
    """The inputs of which a size `differs` from its limit, or which have another rank, described for a message."""
    found = []
    for name, shape in shapes.items():
        limit = limits[name]
        if len(shape) != len(limit) or any(map(differs, shape, limit)):
            found.append(f"{name} {list(shape)} (limit {list(limit)})")
    return found
