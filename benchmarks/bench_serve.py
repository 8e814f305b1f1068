"""How much later a request's score is there through the server than from `rm.score()`: one short request at a time.

    python benchmarks/bench_serve.py BUNDLE [--requests 2000] [--device ort-cpu]

Both are timed in turns of twenty, so that whatever else the machine does falls on both, and with a pause before each,
as single requests come.
The server is a process of its own (`rmruntime serve`), the client one keep-alive connection that sends the same bytes
each time; a real client needs time of its own. Prints the medians in milliseconds, and their difference.
"""

import argparse
import json
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import chain
from typing import Any

from rmruntime import RewardModel

RECORD = {"prompt": "What is 2 + 2?", "response": "The answer is 4."}
COMMAND = [sys.executable, "-c", "import sys; from rmruntime.cli import main; sys.exit(main())", "serve"]
PAUSE = 0.001  # seconds before each: of calls without one, the engine's threads have not gone to sleep yet
BLOCK = 20  # calls in a row: of two processes in turns, each would find the other's data in the processor's caches


def started(bundle: str, device: str) -> tuple[subprocess.Popen[str], int]:
    """The server's process, once it is ready, and its port."""
    command = [*COMMAND, bundle, "--port", "0", "--device", device, "--no-request-log"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    port = 0
    for line in process.stderr:
        if found := re.search(r"listening on http://127\.0\.0\.1:(\d+)", line):
            port = int(found[1])
        if "is ready" in line:
            return process, port
    raise SystemExit("the server ended before it was ready")


def block_seconds(call: Callable[[], Any]) -> list[float]:
    """How long each of a block of calls takes, after one that is not counted."""
    call()
    spent = []
    for _ in range(BLOCK):
        time.sleep(PAUSE)
        begun = time.perf_counter()
        call()
        spent.append(time.perf_counter() - begun)
    return spent


def is_whole(received: bytes) -> bool:
    """Whether an answer is there with its headers and all of its body."""
    head, end, body = received.partition(b"\r\n\r\n")
    found = re.search(rb"content-length: (\d+)", head)
    return bool(end) and found is not None and len(body) == int(found[1])


def main() -> None:
    """See the module docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--device", default="ort-cpu")
    arguments = parser.parse_args()
    process, port = started(arguments.bundle, arguments.device)
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    body = json.dumps(RECORD).encode()
    message = f"POST /v1/rewards HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body

    def request() -> None:
        connection.sendall(message)
        received = b""
        while not is_whole(received):
            received += connection.recv(1 << 16)
        assert received.startswith(b"HTTP/1.1 200"), received

    try:
        with RewardModel.load(arguments.bundle, device=arguments.device) as model:
            calls: tuple[Callable[[], Any], ...] = (lambda: model.score([RECORD]), request)
            rounds = [[block_seconds(call) for call in calls] for _ in range(arguments.requests // BLOCK)]
    finally:
        connection.close()
        process.send_signal(signal.SIGTERM)
        process.wait()
    called, asked = (statistics.median(chain.from_iterable(times)) * 1000 for times in zip(*rounds, strict=True))
    overhead = f"overhead {asked - called:.3f} ms (p50 of {arguments.requests} each)"
    print(f"rm.score() {called:.3f} ms, server {asked:.3f} ms, {overhead}")


if __name__ == "__main__":
    main()
