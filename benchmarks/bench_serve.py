"""How much later a request's score is there through the server than from `rm.score()`: one short request at a time.

    python benchmarks/bench_serve.py BUNDLE [--requests 2000] [--device ort-cpu]

Both are timed in turns, a request and a call of the same record, so that whatever else the machine does falls on both.
The server is a process of its own (`rmruntime serve`), the client one keep-alive connection of http.client, whose own
time counts for the server. Prints the medians in milliseconds, and their difference.
"""

import argparse
import http.client
import json
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from rmruntime import RewardModel

RECORD = {"prompt": "What is 2 + 2?", "response": "The answer is 4."}
COMMAND = [sys.executable, "-c", "import sys; from rmruntime.cli import main; sys.exit(main())", "serve"]
WARM_UP = 50


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


def seconds_of(call: Callable[[], Any]) -> float:
    """How long one call takes."""
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def main() -> None:
    """See the module docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--device", default="ort-cpu")
    arguments = parser.parse_args()
    process, port = started(arguments.bundle, arguments.device)
    connection = http.client.HTTPConnection("127.0.0.1", port)
    body, headers = json.dumps(RECORD), {"Content-Type": "application/json"}

    def request() -> None:
        connection.request("POST", "/v1/rewards", body, headers)
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status == 200, content

    try:
        with RewardModel.load(arguments.bundle, device=arguments.device) as model:
            turns = [
                (seconds_of(lambda: model.score([RECORD])), seconds_of(request)) for _ in range(arguments.requests)
            ]
    finally:
        connection.close()
        process.send_signal(signal.SIGTERM)
        process.wait()
    call, asked = (statistics.median(times) * 1000 for times in zip(*turns[WARM_UP:], strict=True))
    print(f"rm.score() {call:.3f} ms, server {asked:.3f} ms, overhead {asked - call:.3f} ms (p50 of {len(turns)})")


if __name__ == "__main__":
    main()
