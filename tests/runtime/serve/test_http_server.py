"""`rmruntime serve` over real sockets: starts, answers, reloads, drains on SIGTERM, and says why it cannot start."""

import asyncio
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from gated_engine import PATIENCE, wait_until
from rmruntime.errors import OptionError, RewardModelError
from rmruntime.serve.bounded_head import bounded_protocol
from rmruntime.serve.http_server import bound_socket
from rmruntime.serve.loader import named_folders
from rmruntime.serve.server_options import ListenOptions

COMMAND = [sys.executable, "-c", "import sys; from rmruntime.cli import main; sys.exit(main())", "serve"]
RECORD = {"input_ids": [5, 6, 7]}


class Server:
    """A server process; `lines` are those that it wrote so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip())

    def said(self, pattern: str) -> re.Match[str]:
        """The first line that matches, which is waited for."""
        wait_until(lambda: self.process.poll() is not None or self._found(pattern))
        wait_until(lambda: self._found(pattern))
        found = self._found(pattern)
        assert found is not None
        return found

    def _found(self, pattern: str) -> re.Match[str] | None:
        return next((found for line in tuple(self.lines) if (found := re.search(pattern, line))), None)


@contextmanager
def serving(*arguments: str) -> Iterator[Server]:
    with subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.PIPE, text=True) as process:
        try:
            yield Server(process)
        finally:
            if process.poll() is None:
                process.kill()


def connected(port: int) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)


def ask(connection: http.client.HTTPConnection, path: str, data: Any = None) -> tuple[int, Any]:
    connection.request("GET" if data is None else "POST", path, None if data is None else json.dumps(data))
    answer = connection.getresponse()
    body = answer.read()
    return answer.status, json.loads(body) if body else None


def test_start_request_reload_and_drain(classifier_bundle: Path) -> None:
    with serving(str(classifier_bundle), "--port", "0", "--device", "ort-cpu") as server:
        port = int(server.said(r"listening on http://127\.0\.0\.1:(\d+)")[1])
        with closing(connected(port)) as connection, closing(connected(port)) as probe:
            assert ask(connection, "/health")[0] == 200
            server.said("b is ready after")
            status, body = ask(connection, "/v1/rewards", RECORD)
            assert status == 200 and body["model"]["engine"] == "ort-cpu"
            server.lines.clear()
            server.process.send_signal(signal.SIGHUP)
            server.said("b is ready after")
            assert ask(connection, "/v1/rewards", RECORD)[1]["result"] == body["result"]
            many = {"records": [{"input_ids": [5 + n % 9] * 200} for n in range(300)]}
            last: list[Any] = []
            asking = threading.Thread(target=lambda: last.append(ask(connection, "/v1/rewards", many)))
            asking.start()
            wait_until(lambda: ask(probe, "/load")[1]["server_load"] or last)
            server.process.send_signal(signal.SIGTERM)
            asking.join(PATIENCE)
        [(status, body)] = last
        assert status == 200 and len(body["results"]) == 300
        assert server.process.wait(PATIENCE) == 0
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()


def test_asked_to_end_while_it_loads(classifier_bundle: Path) -> None:
    with serving(str(classifier_bundle), "--port", "0", "--device", "openvino") as server:
        server.said("listening on")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE) == 0


def test_a_bundle_that_cannot_be_loaded(tmp_path: Path) -> None:
    with serving(str(tmp_path), "--port", "0") as server:
        assert server.process.wait(PATIENCE) == 2
        server.said("error: .* is not a bundle")


def test_a_unix_socket_is_the_users_own_and_goes_at_the_end(classifier_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "s"
    bound_socket(ListenOptions(uds=str(path))).close()  # one that nobody listens to any more is replaced
    with serving(f"judge={classifier_bundle}", "--uds", str(path), "--device", "ort-cpu") as server:
        server.said("judge is ready")
        assert path.stat().st_mode & 0o777 == 0o660
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(path))
        assert ask(connection, "/v1/rewards", RECORD)[0] == 200
        connection.close()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE) == 0
    assert not path.exists()


def test_a_port_that_is_in_use() -> None:
    with bound_socket(ListenOptions(port=0)) as listener:
        with pytest.raises(OptionError, match="cannot listen on 127"):
            bound_socket(ListenOptions(port=listener.getsockname()[1]))


def test_answers_do_not_wait_for_acknowledgements() -> None:
    """asyncio turns Nagle's algorithm off for sockets that are said to be TCP."""
    with bound_socket(ListenOptions(port=0)) as listener:
        assert listener.proto == socket.IPPROTO_TCP


def test_headers_that_are_too_large_or_too_slow() -> None:
    """Of a connection over a socket pair, whose other end the test has."""

    async def answered(head_seconds: float, *parts: bytes) -> bytes:
        config = uvicorn.Config(_answer, http=bounded_protocol(1000, head_seconds), lifespan="off", log_config=None)
        config.load()
        state, loop = uvicorn.server.ServerState(), asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        await loop.connect_accepted_socket(
            lambda: config.http_protocol_class(config=config, server_state=state, app_state={}), theirs
        )
        reader, writer = await asyncio.open_connection(sock=ours)
        for part in parts:
            writer.write(part)
            await asyncio.sleep(0.01)  # each is read by itself
        try:
            async with asyncio.timeout(PATIENCE):
                return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()

    async def scenario() -> None:
        start, end = b"GET / HTTP/1.1\r\nConnection: close\r\nX: ", b"\r\n\r\n"
        assert (await answered(PATIENCE, start + b"a" * 500 + end)).startswith(b"HTTP/1.1 200")
        assert await answered(PATIENCE, start, b"a" * 1000, b"a" * 1000) == b""
        assert await answered(0.01, start) == b""

    asyncio.run(scenario())


async def _answer(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body"})


def test_two_bundles_of_one_name() -> None:
    assert named_folders(["a=x", "b=x"]) == {"a": "x", "b": "x"}
    with pytest.raises(RewardModelError, match="two bundles named 'x'"):
        named_folders(["a/x", "b/x"])


def test_options_that_do_not_fit_each_other() -> None:
    with pytest.raises(OptionError, match="expected both or neither"):
        ListenOptions(tls_key="k.pem")
    with pytest.raises(OptionError, match="port is 70000"):
        ListenOptions(port=70000)
