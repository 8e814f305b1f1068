"""Builds the engine of a network, and writes it to a file while it is built."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from rmexport.compile.device import TargetDevice, rtx_capabilities
from rmexport.compile.network import Network
from rmexport.errors import CompilationFailed, WriteError
from rmexport.output.deferred_interrupt import Interruption
from rmruntime.bundle.engine_record import Profile

Progress = Callable[[str, int, int], object]  # called with a phase's name, its steps done, and those in total


@dataclass
class _Written:
    """The engine's file while it is written; `error` is the exception that stopped the writing.

    It is kept here because the library ignores exceptions of its callbacks.
    """

    file: BinaryIO
    digest: Any = field(default_factory=hashlib.sha256)
    size: int = 0
    error: BaseException | None = None

    def write(self, data: bytes) -> int:
        """Write `data`; returns the number of bytes written, 0 after an error."""
        try:
            self.file.write(data)
        except BaseException as error:  # kept, and raised again after the build
            self.error = self.error or error
            return 0
        self.digest.update(data)
        self.size += len(data)
        return len(data)


def build_engine(
    network: Network,
    profiles: Iterable[Profile],
    device: TargetDevice,
    path: Path,
    *,
    interruption: Interruption,
    progress: Progress | None,
) -> tuple[int, str]:
    """Write the engine to `path`; returns its size in bytes and its sha256.

    The build ends early when a signal sets `interruption`. Raises CompilationFailed, WriteError, and the exceptions of
    `progress`.
    """
    config = _configured(network, profiles, device)
    monitor = _monitor(network.library.module, interruption, progress)
    config.progress_monitor = monitor
    try:
        with path.open("wb") as file:
            written = _Written(file)
            built = _build(network, config, written)
        if written.error is not None:
            raise written.error
    except OSError as error:
        raise WriteError(f"{path} cannot be written: {error.strerror}; make room or the folder writable") from error
    if monitor.error is not None:
        raise monitor.error
    if not built or not written.size:
        raise network.messages.failure(f"{network.library.name} {network.library.version} cannot build the engine")
    return written.size, written.digest.hexdigest()


def _configured(network: Network, profiles: Iterable[Profile], device: TargetDevice) -> Any:
    trt, config = network.library.module, network.builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # heads and fp32 bundles need fp32 products
    if not network.library.needs_gpu:
        config.num_compute_capabilities = 1
        name = rtx_capabilities(network.library)[device.compute_capability]
        config.set_compute_capability(getattr(trt.ComputeCapability, name), 0)
    for profile in profiles:
        _add_profile(network, config, profile)
    return config


def _add_profile(network: Network, config: Any, profile: Profile) -> None:
    optimization = network.builder.create_optimization_profile()
    for name, dims in network.inputs.items():
        if unknown := [dim for dim in dims if dim not in profile.dimensions]:
            raise CompilationFailed(
                f"the input {name} has the dimension {unknown[0]!r}, expected one of {', '.join(profile.dimensions)}; "
                "export the bundle again"
            )
        extents = [profile.dimensions[dim] for dim in dims]
        sizes = ([getattr(extent, size) for extent in extents] for size in ("least", "tuned", "most"))
        optimization.set_shape(name, *map(tuple, sizes))
    if config.add_optimization_profile(optimization) < 0:
        raise network.messages.failure(f"{network.library.name} refuses the profile {profile.name}")


def _build(network: Network, config: Any, written: _Written) -> bool:
    trt, builder, definition = network.library.module, network.builder, network.definition
    if hasattr(builder, "build_serialized_network_to_stream"):  # spares a copy of the engine in memory
        return bool(builder.build_serialized_network_to_stream(definition, config, _stream(trt, written)))
    plan = builder.build_serialized_network(definition, config)
    return plan is not None and written.write(memoryview(plan)) > 0  # type: ignore[arg-type] # any buffer will do


def _stream(trt: Any, written: _Written) -> Any:
    class Stream(trt.IStreamWriter):  # type: ignore[misc] # the library is untyped
        def __init__(self) -> None:
            trt.IStreamWriter.__init__(self)

        def write(self, data: bytes) -> int:
            return written.write(data)

    return Stream()


def _monitor(trt: Any, interruption: Interruption, progress: Progress | None) -> Any:
    """An IProgressMonitor that calls `progress` for every step, and stops the library after an error or a signal."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc] # the library is untyped
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.error: BaseException | None = None
            self._steps: dict[str, int] = {}

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self._steps[name] = steps
            self._tell(name, 0)

        def step_complete(self, name: str, step: int) -> bool:
            self._tell(name, step + 1)
            return self.error is None and not interruption.requested

        def phase_finish(self, name: str) -> None:
            self._tell(name, self._steps[name])

        def _tell(self, name: str, done: int) -> None:
            if progress is None or self.error is not None:
                return
            try:
                progress(name, done, self._steps[name])
            except BaseException as error:  # kept, and raised again after the build
                self.error = error

    return Monitor()
