"""Runs a command and reports its time and peak memory: anonymous memory and everything resident, separately."""

import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Seconds of wall clock; peaks in bytes, sampled. Weights mapped from files are in `resident` only."""

    seconds: float
    anonymous: int
    resident: int


def measure(command: list[str], *, limit: int | None = None) -> Measured:
    """Run `command`, optionally in a control group limited to `limit` bytes (needs root and cgroup v1 or v2).

    Raises RuntimeError when it fails.
    """
    group = _control_group(limit) if limit is not None else None
    begin = time.perf_counter()
    process = subprocess.Popen(command, preexec_fn=(lambda: _enter(group)) if group else None)
    peak = _Sampler(process.pid)
    status = process.wait()
    seconds = time.perf_counter() - begin
    if group:
        os.rmdir(group)
    if status != 0:
        raise RuntimeError(f"{' '.join(command)} exited with {status}")
    return Measured(seconds=seconds, anonymous=peak.anonymous * 1024, resident=peak.resident * 1024)


class _Sampler:
    """Polls /proc/PID/status every 10 ms; KiB."""

    def __init__(self, pid: int) -> None:
        self.anonymous = self.resident = 0
        self._path = Path(f"/proc/{pid}/status")
        threading.Thread(target=self._poll, daemon=True).start()

    def _poll(self) -> None:
        while True:
            try:
                fields = dict(line.split(":", 1) for line in self._path.read_text().splitlines())
            except OSError:
                return
            if "RssAnon" not in fields:  # a zombie has none
                return
            self.anonymous = max(self.anonymous, int(fields["RssAnon"].split()[0]))
            self.resident = max(self.resident, int(fields["VmHWM"].split()[0]))
            time.sleep(0.01)


def _control_group(limit: int) -> Path:
    """A fresh group under this process's own limit."""
    for root, name in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        folder = root / f"rmexport-bench-{os.getpid()}"
        try:
            folder.mkdir()
            (folder / name).write_text(str(limit))
        except OSError:
            continue
        return folder
    sys.exit("cannot make a memory control group here; run as root, or leave the limit out")


def _enter(group: Path) -> None:
    (group / "cgroup.procs").write_text(str(os.getpid()))
