"""Reads the body of a request, and parses its JSON: no more bytes, and no deeper, than is allowed."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, NoReturn

from rmruntime.serve.problems import Refused

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
PARSED_ON_A_THREAD = 1 << 20  # bytes of JSON, which take some milliseconds


class ClientGone(Exception):
    """The client closed the connection before it was answered."""


async def read_body(receive: Receive, headers: Mapping[str, str], most: int, seconds: float) -> bytes:
    """All bytes of the body. Raises Refused: "too_large" for more than `most`, "too_slow" where it takes longer than
    that many seconds; and ClientGone.
    """
    stated = headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > most:
        raise _too_large()
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise Refused("malformed", "the header Content-Encoding: found a compressed body, expected a plain one")
    try:
        async with asyncio.timeout(seconds):
            return await _joined(receive, most)
    except TimeoutError:
        raise Refused("too_slow", f"the body did not come within {seconds:g} seconds; send it faster") from None


async def _joined(receive: Receive, most: int) -> bytes:
    parts: list[bytes] = []
    more = True
    while more:
        message = await receive()
        parts.append(_part(message, most))
        most -= len(parts[-1])
        more = message.get("more_body", False)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _part(message: Message, most: int) -> bytes:
    if message["type"] == "http.disconnect":
        raise ClientGone
    part: bytes = message.get("body", b"")
    if len(part) > most:
        raise _too_large()
    return part


async def parse_body(body: bytes, max_depth: int) -> Any:
    """The JSON value of `body`; a large one is parsed on a thread. Raises as `parse` does."""
    if len(body) > PARSED_ON_A_THREAD:
        return await asyncio.to_thread(parse, body, max_depth)
    return parse(body, max_depth)


def parse(body: bytes, max_depth: int) -> Any:
    """The JSON value of `body`. Raises Refused: "malformed" for what is none, "too_large" for one nested too deeply.

    >>> parse(b'{"text": "Hello"}', max_depth=4)
    {'text': 'Hello'}
    >>> parse(b"[[[[[1]]]]]", max_depth=4)
    Traceback (most recent call last):
    rmruntime.serve.problems.Refused: the body is nested deeper than 4 levels
    """
    try:
        data = json.loads(body.decode(), parse_constant=_no_constant)
    except RecursionError:
        raise Refused("too_large", f"the body is nested deeper than {max_depth} levels") from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are ones
        raise Refused("malformed", f"the body is not JSON: {str(error)[:200]}") from None
    if body.count(b"[") + body.count(b"{") > max_depth and _is_deeper(data, max_depth):
        raise Refused("too_large", f"the body is nested deeper than {max_depth} levels")
    return data


def _is_deeper(data: Any, max_depth: int) -> bool:
    level = [data]
    for _ in range(max_depth + 1):
        level = [item for item in level if type(item) in (list, dict)]
        if not level:
            return False
        level = [item for group in level for item in (group.values() if type(group) is dict else group)]
    return True


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


def _too_large() -> Refused:
    return Refused("too_large", "the body has more bytes than this server takes; send fewer records at a time")
