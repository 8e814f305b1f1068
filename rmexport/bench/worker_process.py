"""A contestant's process, as the benchmark sees it: sends commands, reads replies, and limits the time for these."""

import contextlib
import json
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rmexport.bench.process_memory import PeakMemory
from rmexport.errors import ContestantError

WORKER = Path(__file__).parent / "worker"
SAMPLE_S = 0.2  # between samples of memory
STDERR_TAIL = 1500  # characters


class WorkerProcess:
    """A contestant's process, in a session of its own, so that Ctrl-C reaches only the benchmark."""

    def __init__(
        self, python: str, module: Path, timeout_s: float, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start the peer in the file `module` with the interpreter `python`; `environment` is added to ours.

        Raises ContestantError if that fails.
        """
        self.memory, self._timeout_s = PeakMemory(), timeout_s
        self._stderr = tempfile.TemporaryFile()  # closed in `close`
        self._buffer = b""
        try:
            self._process = subprocess.Popen(
                [python, str(WORKER), str(module)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, start_new_session=True,
                env=os.environ | (environment or {}),
            )  # fmt: skip
        except OSError as error:
            self._stderr.close()
            raise ContestantError(
                f"{python} cannot be started: {error.strerror}; name another with --peer-python"
            ) from error

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """The reply to the command `do` with its arguments.

        Raises ContestantError when the contestant replies with an error, ends, or does not answer in time; it is ended
        in the last case.
        """
        self._send(json.dumps({"do": do, "with": arguments}) + "\n")
        reply: dict[str, Any] = json.loads(self._line(do))
        if "error" in reply:
            raise ContestantError(reply["error"])
        return reply

    def close(self) -> None:
        """End the process and its children."""
        with contextlib.suppress(ProcessLookupError):  # not even a child is left
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            if stream is not None and not stream.closed:
                _close(stream)

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()
        except OSError as error:
            raise ContestantError(self._end()) from error

    def _line(self, do: str) -> bytes:
        assert self._process.stdout is not None
        end = time.monotonic() + self._timeout_s
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._process.stdout], [], [], SAMPLE_S)
            self.memory.sample(self._process.pid)
            if ready:
                block = os.read(self._process.stdout.fileno(), 1 << 20)
                if not block:
                    raise ContestantError(self._end())
                self._buffer += block
            elif time.monotonic() > end:
                self.close()
                raise ContestantError(
                    f"gave no answer to {do!r} within {self._timeout_s:g} s and was ended; allow more with --timeout"
                )
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _end(self) -> str:
        """How the process ended, with the end of what it wrote to standard error."""
        try:
            status = self._process.wait(10)
        except subprocess.TimeoutExpired:
            return "closed its output without ending"
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        self._stderr.seek(0)
        tail = self._stderr.read().decode(errors="replace").strip()[-STDERR_TAIL:]
        return f"{how}: {tail}" if tail else how


def _close(stream: Any) -> None:
    try:
        stream.close()
    except OSError:  # a command that was not sent, to a process that has ended
        pass
