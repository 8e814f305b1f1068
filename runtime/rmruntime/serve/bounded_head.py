"""A connection of uvicorn whose requests must have their headers within some bytes and seconds.

httptools, its parser, keeps as many as a client sends, for as long as it takes.
"""

import asyncio
import importlib
from collections.abc import Callable
from typing import Any

HEAD_BYTES = 64 << 10  # real ones have a few KB; what is read at once may come on top
HEAD_SECONDS = 30.0


class HeadLimit:
    """Whether a request's headers are still coming, and for how long; `close` ends the connection."""

    def __init__(self, most: int, seconds: float, close: Callable[[], object]) -> None:
        self._most, self._seconds, self._close = most, seconds, close
        self._timer: asyncio.TimerHandle | None = None
        self._size = 0

    def begin(self) -> None:
        """A request is expected, or its first bytes are there."""
        self.end()
        self._size = 0
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._close)

    def count(self, size: int) -> None:
        """So many bytes were read."""
        if self._timer is not None:
            self._size += size
            if self._size > self._most:
                self._close()

    def end(self) -> None:
        """The headers are there, or the connection is gone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def bounded_protocol(head_bytes: int = HEAD_BYTES, head_seconds: float = HEAD_SECONDS) -> type[asyncio.Protocol]:
    """The class of uvicorn's connections on httptools, which closes those whose headers are too large or too slow."""
    plain: Any = importlib.import_module("uvicorn.protocols.http.httptools_impl").HttpToolsProtocol

    class BoundedHead(plain):  # type: ignore[misc] # uvicorn is imported by name
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._head = HeadLimit(head_bytes, head_seconds, transport.close)
            self._head.begin()

        def connection_lost(self, exc: Exception | None) -> None:
            self._head.end()
            super().connection_lost(exc)

        def on_message_begin(self) -> None:
            self._head.begin()
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._head.end()
            super().on_headers_complete()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._head.count(len(data))

    return BoundedHead
