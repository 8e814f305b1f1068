"""A reward model inside a web service: requests of all clients share passes, and nothing but rmruntime is needed.

python examples/embed_in_a_service.py BUNDLE [PORT]

    curl -d '{"prompt": "What is 2+2?", "response": "4"}' http://127.0.0.1:8000/score

POST /score takes one record and answers with its score; GET /health says how the model is doing. A client that hangs up
takes its request back, and SIGTERM lets those that were taken finish. HTTP is kept to what that needs: use a web
framework for TLS, long connections and limits.
"""

import asyncio
import json
import signal
import sys
from dataclasses import asdict
from typing import Any

from rmruntime import BackendError, DeadlineExceeded, InputError, QueueFull, RewardModel, RewardModelError, Score

DEADLINE = 30.0  # seconds that a request may wait for its turn
LARGEST = 1 << 20  # bytes of a request
REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 413: "Content Too Large", 429: "Too Many Requests"}
REASONS |= {500: "Internal Server Error", 503: "Service Unavailable", 504: "Gateway Timeout"}
STATUS: dict[type[Exception], int] = {BackendError: 500, InputError: 400, QueueFull: 429, DeadlineExceeded: 504}

Answer = tuple[int, dict[str, Any]]  # status and body


class Service:
    """Answers one connection after another, any number of them at the same time."""

    def __init__(self, model: RewardModel) -> None:
        self._model = model
        self._connections: set[asyncio.Task[None]] = set()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Called for each connection."""
        task = asyncio.create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        await task

    async def finish(self) -> None:
        """Refuse what comes, and wait until everybody has an answer."""
        await asyncio.to_thread(self._model.drain, DEADLINE)
        if self._connections:
            await asyncio.wait(self._connections, timeout=DEADLINE)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request, whose connection is closed with the answer."""
        try:
            status, body = await self._answer(reader)
            payload = json.dumps(body).encode()
            head = f"HTTP/1.1 {status} {REASONS[status]}\r\nContent-Type: application/json\r\nConnection: close\r\n"
            writer.write(f"{head}Content-Length: {len(payload)}\r\n\r\n".encode() + payload)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has gone
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> Answer:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
        request = head[0].split()[:2]
        fields = dict(line.split(":", 1) for line in head[1:] if ":" in line)
        if request == ["get", "/health"]:
            return 200, {"waiting_tokens": self._model.waiting_tokens, **asdict(self._model.statistics)}
        if request != ["post", "/score"]:
            return 404, {"error": "expected POST /score or GET /health"}
        length = fields.get("content-length", "").strip()
        if not length.isdecimal():
            return 400, {"error": "expected the number of the body's bytes, Content-Length"}
        if len(length) > len(str(LARGEST)) or int(length) > LARGEST:
            return 413, {"error": f"found {length:.20} bytes, expected at most {LARGEST}"}
        return await self._while_connected(reader, await reader.readexactly(int(length)))

    async def _while_connected(self, reader: asyncio.StreamReader, body: bytes) -> Answer:
        """The answer, unless the client hangs up: its request is then cancelled, and not computed."""
        scoring, gone = asyncio.create_task(self._score(body)), asyncio.create_task(reader.read())
        await asyncio.wait({scoring, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not scoring.done():
            scoring.cancel()
            raise ConnectionResetError
        gone.cancel()
        return scoring.result()

    async def _score(self, body: bytes) -> Answer:
        try:
            scored = await self._model.ascore(json.loads(body), deadline=DEADLINE)
        except ValueError as error:
            return 400, {"error": f"the body is no JSON: {error}"}
        except RewardModelError as error:
            return next((code for kind, code in STATUS.items() if isinstance(error, kind)), 503), {"error": str(error)}
        return 200, {"scores": _shown(scored)}


def _shown(scored: Score | list[Score]) -> Any:
    """A score as JSON has it, or a list of them."""
    return [asdict(score) for score in scored] if isinstance(scored, list) else asdict(scored)


async def main() -> None:
    """Serve until SIGTERM or Ctrl-C."""
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: embed_in_a_service.py BUNDLE [PORT]")
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    with RewardModel.load(sys.argv[1]) as model:
        service = Service(model)
        server = await asyncio.start_server(service.connected, "127.0.0.1", int((*sys.argv, "8000")[2]))
        print(f"listening on http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
        await ended.wait()
        server.close()  # to new connections
        await service.finish()
        print(model.statistics, flush=True)


if __name__ == "__main__":
    asyncio.run(main())
