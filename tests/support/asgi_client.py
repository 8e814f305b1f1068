"""Drives an ASGI application in process, without sockets: what a test sends, and what it is answered."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

PATIENCE = 60  # seconds until a test gives up waiting for what never comes


@dataclass(frozen=True)
class Response:
    """An answer; `headers` have lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class AsgiClient:
    """Sends requests to `application`, all in one event loop; `close` ends it.

    `headers` are sent with each request; `root_path` is where the application is mounted.
    """

    def __init__(self, application: Any, *, headers: Mapping[str, str] | None = None, root_path: str = "") -> None:
        self.application, self.headers, self.root_path = application, dict(headers or {}), root_path
        self.loop = asyncio.new_event_loop()

    def get(self, path: str, **named: Any) -> Response:
        return self.request("GET", path, **named)

    def post(self, path: str, data: Any = None, **named: Any) -> Response:
        """POST `data` as JSON; `body=` takes bytes in its place."""
        return self.request("POST", path, data, **named)

    def request(
        self,
        method: str,
        path: str,
        data: Any = None,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        return self.run(self.arequest(method, path, data, body=body, headers=headers))

    async def arequest(
        self,
        method: str,
        path: str,
        data: Any = None,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        gone: asyncio.Event | None = None,
    ) -> Response:
        """One request of several at a time, within `run`; the client closes the connection once `gone` is set.

        The status of a request that got no answer is 0.
        """
        content = (b"" if data is None else json.dumps(data).encode()) if body is None else body
        path, _, query = path.partition("?")
        scope = {
            "type": "http",
            "method": method,
            "path": self.root_path + path,
            "root_path": self.root_path,
            "query_string": query.encode(),
            "headers": [(n.lower().encode(), v.encode()) for n, v in {**self.headers, **(headers or {})}.items()],
        }
        sent: list[dict[str, Any]] = []

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await self.application(scope, _receiver(content, gone or asyncio.Event()), send)
        if not sent:
            return Response(0, {}, b"")
        start = sent[0]
        answered = {name.decode(): value.decode() for name, value in start["headers"]}
        return Response(start["status"], answered, b"".join(message.get("body", b"") for message in sent[1:]))

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(work, PATIENCE))

    def close(self) -> None:
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()


def _receiver(content: bytes, gone: asyncio.Event) -> Callable[[], Awaitable[dict[str, Any]]]:
    waiting = [content]

    async def receive() -> dict[str, Any]:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    return receive
