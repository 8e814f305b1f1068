"""The GPU that an engine is compiled for: this machine's, or one that the user names."""

import re
from dataclasses import dataclass

from rmexport.compile.library import Library
from rmexport.compile.options import CompileOptions
from rmexport.errors import NotCompilable
from rmruntime.devices.cuda_driver import CudaDevice, cuda_device
from rmruntime.errors import EngineUnusable

ANY_GPU = "any GPU"


@dataclass(frozen=True, kw_only=True)
class TargetDevice:
    """The GPU to compile for: `gpu` is its name, or ANY_GPU for all of one compute capability; `memory` is in bytes."""

    gpu: str
    compute_capability: str
    memory: int | None


def find_device(library: Library, options: CompileOptions) -> TargetDevice:
    """The GPU to compile for. Raises NotCompilable where the library cannot compile for it, or not on this machine."""
    return _native_device(options) if library.needs_gpu else _rtx_device(library, options)


def engine_name(library: Library, device: TargetDevice) -> str:
    """The name of the engine's folder.

    >>> h200 = TargetDevice(gpu="NVIDIA H200", compute_capability="9.0", memory=None)
    >>> engine_name(Library("tensorrt", "10.15.1.2", None), h200)
    'sm90-nvidia-h200-tensorrt-10.15.1'
    """
    capability = "sm" + device.compute_capability.replace(".", "")
    model = [] if device.gpu == ANY_GPU else [re.sub(r"[^a-z0-9]+", "-", device.gpu.lower()).strip("-")]
    return "-".join([capability, *model, library.name, ".".join(library.version.split(".")[:3])])


def _native_device(options: CompileOptions) -> TargetDevice:
    if options.compute_capability is not None:
        raise NotCompilable(
            "tensorrt compiles for the GPU that it runs on, so it takes no compute capability; leave "
            "--compute-capability out on that GPU's machine, or choose --library tensorrt_rtx"
        )
    try:
        found = cuda_device(0)
    except EngineUnusable as error:
        raise NotCompilable(
            f"tensorrt times kernels on the GPU that it compiles for, and none can be used here: {error}. Compile on "
            "the machine that will score, or choose --library tensorrt_rtx with --compute-capability"
        ) from error
    return TargetDevice(gpu=found.name, compute_capability=_capability(found), memory=found.total_memory)


def _rtx_device(library: Library, options: CompileOptions) -> TargetDevice:
    capability, memory = options.compute_capability, None
    if capability is None:
        try:
            found = cuda_device(0)
        except EngineUnusable as error:
            raise NotCompilable(
                f"no GPU can be used here ({error}); name one to compile for, as in --compute-capability 8.9"
            ) from error
        capability, memory = _capability(found), found.total_memory
    known = rtx_capabilities(library)
    if capability not in known:
        raise NotCompilable(
            f"tensorrt_rtx {library.version} does not compile for compute capability {capability}, only for "
            f"{', '.join(known)}; on such a GPU take the native package: pip install 'rmexport[tensorrt]', and compile "
            "with --library tensorrt"
        )
    return TargetDevice(gpu=ANY_GPU, compute_capability=capability, memory=memory)


def rtx_capabilities(library: Library) -> dict[str, str]:
    """The compute capabilities that tensorrt_rtx compiles for, with its own name for each.

    >>> from types import SimpleNamespace
    >>> module = SimpleNamespace(ComputeCapability=SimpleNamespace(__members__={"SM89": 1, "CURRENT": 2}))
    >>> rtx_capabilities(Library("tensorrt_rtx", "1.7.1", module))
    {'8.9': 'SM89'}
    """
    names = [name for name in library.module.ComputeCapability.__members__ if re.fullmatch(r"SM\d+", name)]
    return {f"{name[2:-1]}.{name[-1]}": name for name in sorted(names, key=lambda name: int(name[2:]))}


def _capability(device: CudaDevice) -> str:
    return ".".join(map(str, device.compute_capability))
