"""What happened on a stub of CUDA (cuda_stub/): kernels, copies, allocations and waits, in order."""

import ctypes
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

RUNTIME = "libcudart.so.13"


@dataclass
class Events:
    """`lines` are filled when the log ends: "launch KERNEL GRID BLOCK", "copy h2d async BYTES", "malloc BYTES ..."."""

    lines: list[str] = field(default_factory=list)

    @property
    def kernels(self) -> Counter[str]:
        """How often each kernel was launched, by its mangled name, and each of cuBLAS's products, by its function's."""
        return Counter(line.split()[1] for line in self.lines if line.startswith(("launch ", "product ")))

    @property
    def launches(self) -> int:
        return self.kernels.total()

    @property
    def allocations(self) -> list[int]:
        """Bytes of each allocation on a device."""
        return [int(line.split()[1]) for line in self.lines if line.startswith("malloc ")]

    @property
    def waits(self) -> int:
        """How often the host waited for the device."""
        return sum(line.startswith("sync ") or " sync " in line for line in self.lines)

    def copies(self, direction: str) -> list[int]:
        """Bytes of each copy "h2d", "d2h" or "d2d"."""
        return [int(line.split()[3]) for line in self.lines if line.startswith(f"copy {direction} ")]

    def allocating_devices(self) -> set[int]:
        return {int(line.split()[3]) for line in self.lines if line.startswith("malloc ")}


Log = Callable[[], AbstractContextManager[Events]]  # the fixture `log` of tests/cuda_stub
BundleOf = Callable[..., Path]  # and `bundle_of`


@contextmanager
def cuda_events(folder: Path) -> Iterator[Events]:
    """All events of this process inside the context. Raises OSError where the stub is not on the loader's path."""
    stub, file, found = ctypes.CDLL(RUNTIME), folder / "cuda-events.txt", Events()
    stub.stub_log(str(file).encode())
    try:
        yield found
    finally:
        stub.stub_log(None)
        found.lines.extend(file.read_text().splitlines())
