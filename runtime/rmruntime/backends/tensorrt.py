"""TensorRT: engines that `rmexport compile` made of a bundle's graph, for one kind of GPU each."""

import importlib.util
import shlex
from pathlib import Path

from rmruntime.backends._cuda_memory import CudaMemory
from rmruntime.backends._tensorrt_engine import TensorRtEngine
from rmruntime.backends.base import Feeds, Outputs, engine_module, package_obstacle
from rmruntime.bundle import Bundle
from rmruntime.bundle.bundle import file_sha256
from rmruntime.bundle.engine_record import (
    ENGINE_NAME,
    RECORD_NAME,
    EngineRecord,
    engine_folders,
    manifest_digest,
    read_record,
)
from rmruntime.bundle.manifest import Graph
from rmruntime.devices.cuda_driver import CudaDevice, cuda_device
from rmruntime.engine_choice import EngineFacts
from rmruntime.errors import BackendError, BundleError, EngineNotInstalled, EngineUnusable
from rmruntime.options import EngineOptions

NAME = "tensorrt"
DEVICES = ("cuda",)
PRIORITY = 40
HAS_INDEX = True
PACKAGE = "tensorrt"
EXTRA = "tensorrt"
DIALECTS = ("portable", "traced")
RUNS_STAGES = False  # an engine is compiled of a whole graph

SPEED = 40.0  # as `EngineFacts.speed`: an estimate, the highest, because users who compiled an engine want it

LIBRARIES = {"tensorrt": EXTRA, "tensorrt_rtx": "tensorrt-rtx"}  # libraries that compile engines, and their extras


def compute_dtypes(bundle_dtype: str, precision: str) -> tuple[str, ...]:
    """The bundle's dtype, or fp32 where the bundle has such a graph: the graph's types decide the arithmetic.

    >>> compute_dtypes("fp16", "auto"), compute_dtypes("fp16", "bf16")
    (('fp16', 'fp32'), ())
    """
    if precision == "auto":
        return tuple(dict.fromkeys((bundle_dtype, "fp32")))
    return (precision,) if precision in (bundle_dtype, "fp32") else ()


def obstacle(bundle: Bundle, options: EngineOptions) -> BackendError | None:
    """An error where the driver, the GPU or the package is missing, or an engine for this GPU, bundle and TensorRT."""
    wanted = compute_dtypes(bundle.manifest.dtype, options.precision)
    dialects = [dialect for dialect in DIALECTS if options.dialect in (None, dialect)]
    graphs = [g for g in bundle.manifest.graphs if g.dialect in dialects and g.compute_dtype in wanted]
    if not graphs:
        return EngineUnusable(
            f"{NAME} has no graph that computes this {bundle.manifest.dtype} bundle with precision "
            f"{options.precision!r}: leave the precision to 'auto', or choose another device"
        )
    try:
        _choose_engine(bundle, graphs, options)
    except BackendError as error:
        return error
    return None


def facts(bundle: Bundle, graph: Graph, options: EngineOptions) -> EngineFacts:
    """The graph's own arithmetic, on the GPU."""
    return EngineFacts(precision=graph.compute_dtype, speed=SPEED, memory=0, because="it runs on a GPU")


def load(bundle: Bundle, graph: Graph, options: EngineOptions) -> "TensorRtBackend":
    """The engine that was compiled from this graph for this GPU; its weights are read directly onto the device."""
    return TensorRtBackend(bundle, graph, options)


class TensorRtBackend:
    """One engine, its execution context and a stream."""

    name = NAME

    def __init__(self, bundle: Bundle, graph: Graph, options: EngineOptions) -> None:
        folder, record = _choose_engine(bundle, [graph], options)
        if options.check == "full":
            _check_content(folder, record)
        self.graph, self.precision, self.batch_tokens = graph, record.compute_dtype, record.batch_tokens
        self._memory = CudaMemory(options.device_index)
        try:
            self._engine = TensorRtEngine(
                record.library, folder / ENGINE_NAME, self._memory, memory_limit=options.memory_limit
            )
        except BaseException:
            self._memory.close()
            raise

    def run(self, feeds: Feeds) -> Outputs:
        return self._engine.run(feeds)

    def close(self) -> None:
        self._engine.close()
        self._memory.close()


def _choose_engine(bundle: Bundle, graphs: list[Graph], options: EngineOptions) -> tuple[Path, EngineRecord]:
    """The folder and record of the engine to run.

    Raises EngineUnusable or EngineNotInstalled, which tell for each engine why it cannot run here, and how to make one.
    """
    device = cuda_device(options.device_index)
    usable: list[tuple[Path, EngineRecord]] = []
    faults: list[BundleError | BackendError] = []
    for folder in engine_folders(bundle.folder, NAME):
        try:
            usable.append((folder, _checked(folder, bundle, graphs, device)))
        except (BundleError, BackendError) as fault:
            faults.append(fault)
    if usable:
        return max(usable, key=lambda found: (found[1].library == PACKAGE, found[1].batch_tokens))
    raise _refusal(bundle, device, faults)


def _checked(folder: Path, bundle: Bundle, graphs: list[Graph], device: CudaDevice) -> EngineRecord:
    """The record of the engine in `folder`. Raises EngineUnusable or EngineNotInstalled where it cannot run here."""
    record, name = read_record(folder / RECORD_NAME), f"the engine {folder.name}"
    if record.manifest != manifest_digest(bundle.folder):
        raise EngineUnusable(f"{name} was compiled before the bundle was exported as it is now")
    if record.graph not in [graph.file for graph in graphs]:
        raise EngineUnusable(f"{name} was compiled from {record.graph}, not {' or '.join(g.file for g in graphs)}")
    if not _is_for(record, device):
        raise EngineUnusable(
            f"{name} was compiled for {record.gpu} (compute capability {record.compute_capability}), this is {device}"
        )
    _check_version(name, record)
    _check_file(name, folder / ENGINE_NAME, record)
    return record


def _is_for(record: EngineRecord, device: CudaDevice) -> bool:
    """Whether the engine is for this GPU: TensorRT's are for one GPU model, tensorrt_rtx's for compute capabilities."""
    capability = ".".join(map(str, device.compute_capability))
    if capability not in [one.strip() for one in record.compute_capability.split(",")]:
        return False
    return record.library != PACKAGE or record.gpu == device.name


def _check_version(name: str, record: EngineRecord) -> None:
    """Raises unless the library is installed in the engine's version: major, minor and patch."""
    if record.library not in LIBRARIES:
        raise EngineUnusable(f"{name} was compiled by {record.library!r}, expected {' or '.join(LIBRARIES)}")
    missing = package_obstacle(record.library, LIBRARIES[record.library])
    if missing is not None:
        raise missing
    if not _has_cuda_bindings():
        raise EngineNotInstalled(f"{NAME} needs cuda-bindings: pip install 'rmruntime[{LIBRARIES[record.library]}]'")
    try:
        here = str(engine_module(record.library).__version__)
    except (ImportError, OSError) as error:
        raise EngineUnusable(f"{record.library} is installed and cannot be imported: {error}") from error
    if here.split(".")[:3] != record.version.split(".")[:3]:
        raise EngineUnusable(f"{name} was compiled by {record.library} {record.version}, {here} is installed")


def _has_cuda_bindings() -> bool:
    try:
        return importlib.util.find_spec("cuda.bindings") is not None
    except ModuleNotFoundError:  # not even its parent package
        return False


def _check_file(name: str, path: Path, record: EngineRecord) -> None:
    """Raises EngineUnusable for a file of another size. Its hash, which is slow, is checked with `--check full`."""
    size = path.stat().st_size if path.is_file() else None
    if size != record.size:
        found = "is missing" if size is None else f"has {size} bytes"
        raise EngineUnusable(f"{name} is damaged: {path.name} {found}, expected {record.size} bytes")


def _check_content(folder: Path, record: EngineRecord) -> None:
    if file_sha256(folder / ENGINE_NAME) != record.sha256:
        raise BundleError(f"{folder / ENGINE_NAME} has another content than when it was compiled; compile it again")


def _refusal(bundle: Bundle, device: CudaDevice, faults: list[BundleError | BackendError]) -> BackendError:
    if faults and all(isinstance(fault, EngineNotInstalled) for fault in faults):
        return EngineNotInstalled(str(faults[0]))
    found = "; ".join(map(str, faults)) or "the bundle has no TensorRT engine"
    # The new engine's folder can exist only with an engine for this same GPU, which cannot be used.
    overwrite = " --overwrite" if faults else ""
    # Compilers take the first GPU that they see.
    where = f"CUDA_VISIBLE_DEVICES={device.index} " if device.index else ""
    command = f"{where}rmexport compile {shlex.quote(str(bundle.folder))} --target {NAME}{overwrite}"
    return EngineUnusable(f"{found}; compile one for {device} with `{command}`")
