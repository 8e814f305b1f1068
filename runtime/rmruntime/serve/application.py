"""The ASGI application: from a request's bytes to a protocol's handler, and from its answer, or error, to bytes."""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import replace
from typing import Any

from rmruntime.reward_model import RewardModel
from rmruntime.serve.cross_origin import origin_headers, preflight
from rmruntime.serve.http_messages import Answer, HttpRequest, Trace
from rmruntime.serve.problems import PASSING, STATUSES, Problem, Refused, own_error_body, problem_of
from rmruntime.serve.protocols import find_protocols
from rmruntime.serve.protocols.base import Protocol
from rmruntime.serve.request_body import ClientGone, Message, Receive, parse_body, read_body
from rmruntime.serve.router import Match, Router, Target
from rmruntime.serve.server_options import ServerOptions
from rmruntime.serve.service import Service, served

Scope = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
LOG = logging.getLogger("rmruntime.serve")
CLIENT_GONE = 499  # in the log only: nobody is there to be answered
_NO_PROTOCOL = Protocol(name="none", routes=(), error_body=own_error_body)  # of paths that no protocol has
_PLAIN_ID = re.compile(r"[\x21-\x7e]{1,128}")


class Application:
    """An ASGI application over a service, for uvicorn and other servers, or mounted below a path of another one."""

    def __init__(self, service: Service, protocols: Iterable[Protocol] | None = None) -> None:
        """`protocols` are all that discovery finds unless some are given."""
        self.service = service
        self.router = Router(find_protocols().values() if protocols is None else protocols)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or run with the server from its start to its end (ASGI's lifespan)."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http":
            await self._answer_http(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})

    async def _answer_http(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun, request, observer = time.monotonic(), _request_of(scope), self.service.observer
        status = CLIENT_GONE
        observer.in_flight += 1
        try:
            answer = await self._answered(request, receive)
            status = answer.status
            await _send(answer, _all_headers(answer, request, self.service.options.cors), send)
        except ClientGone:
            pass
        finally:
            observer.in_flight -= 1
            observer.finished(request, status, time.monotonic() - begun)

    async def _answered(self, request: HttpRequest, receive: Receive) -> Answer:
        if (asked := preflight(request, self.service.options.cors)) is not None:
            return asked
        protocol = _NO_PROTOCOL
        try:
            match = self.router.find(request.method, request.path)
            target = match.first
            protocol = target.protocol
            _note(request, target)
            if not target.route.open:
                self.service.keys.check(request.headers)
            request = await self._complete(request, match, receive)
            if target.route.body == "json":
                target = match.accepting(request.data)
                protocol = target.protocol
                _note(request, target)
            return await _while_connected(target.route.handler(request, self.service), receive)
        except (ClientGone, asyncio.CancelledError):
            raise
        except Exception as error:  # of any type: the client must have an answer
            return self._failed(error, request, protocol)

    def _failed(self, error: Exception, request: HttpRequest, protocol: Protocol) -> Answer:
        problem = problem_of(error)
        if problem.kind in ("internal", "engine"):
            LOG.error("request %s failed", request.id, exc_info=error)
        return error_answer(problem, protocol)

    async def _complete(self, request: HttpRequest, match: Match, receive: Receive) -> HttpRequest:
        """The request with its body, the parts of its path and its deadline."""
        options, route, begun = self.service.options, match.first.route, time.monotonic()
        body = await read_body(receive, request.headers, options.max_body, options.body_timeout)
        data = await parse_body(body, options.max_depth) if route.body == "json" else None
        request.trace.read_seconds = time.monotonic() - begun
        deadline = _deadline(request.headers, options)
        return replace(request, body=body, data=data, places=match.places, deadline=deadline)


def app(
    model: RewardModel | Mapping[str, RewardModel],
    options: ServerOptions | None = None,
    *,
    protocols: Iterable[Protocol] | None = None,
) -> Application:
    """An ASGI application over one loaded model, or over several by their names; the caller closes the models.

    It can be mounted, as in Starlette's `Mount("/rewards", app(model))` or FastAPI's `api.mount("/rewards",
    app(model))`, or run by any ASGI server.

    >>> from rmruntime import RewardModel
    >>> def make() -> Application:
    ...     return app(RewardModel.load("bundle"), ServerOptions(deadline=30))
    """
    return Application(Service(served(model), options), protocols)


def error_answer(problem: Problem, protocol: Protocol) -> Answer:
    """A problem in the shape, and with the status, of a protocol."""
    status = {**STATUSES, **protocol.statuses}[problem.kind]
    headers: dict[str, str] = {}
    if problem.kind in PASSING:
        headers["retry-after"] = str(max(1, round(problem.retry_after or 1.0)))
    if problem.kind == "unauthorized":
        headers["www-authenticate"] = "Bearer"
    body = protocol.error_body(problem, status)
    if body is None:
        return Answer(status=status, headers=headers)
    return Answer.of_json(body, status, headers)


def _request_of(scope: Scope) -> HttpRequest:
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    path, root = scope["path"], scope.get("root_path", "")
    given = headers.get("x-request-id", "")
    return HttpRequest(
        method=scope["method"],
        path=path.removeprefix(root) or "/",
        query=scope.get("query_string", b"").decode("latin-1"),
        headers=headers,
        id=given if _PLAIN_ID.fullmatch(given) else secrets.token_hex(8),
        trace=Trace(),
    )


def _deadline(headers: Mapping[str, str], options: ServerOptions) -> float | None:
    """When scoring must have begun: X-Request-Timeout-Ms from now, or what the options say."""
    stated = headers.get("x-request-timeout-ms")
    if stated is None:
        return None if options.deadline is None else time.monotonic() + options.deadline
    if not stated.isdecimal() or len(stated) > 12:
        raise Refused("malformed", f"the header X-Request-Timeout-Ms: found {stated[:80]!r}, expected milliseconds")
    return time.monotonic() + int(stated) / 1000


async def _while_connected(work: Awaitable[Answer], receive: Receive) -> Answer:
    """What a handler answers. Raises ClientGone once the client goes, after the handler was cancelled."""
    handler = asyncio.current_task()
    assert handler is not None  # this is a coroutine
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        handler.cancel()

    watching = asyncio.get_running_loop().create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if not gone:
            raise
        handler.uncancel()
        raise ClientGone from None
    finally:
        watching.cancel()


def _note(request: HttpRequest, target: Target) -> None:
    trace = request.trace
    trace.protocol, trace.route, trace.quiet = target.protocol.name, target.route.path, target.route.quiet


async def _send(answer: Answer, headers: Mapping[str, str], send: Send) -> None:
    encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": encoded})
    await send({"type": "http.response.body", "body": answer.body})


def _all_headers(answer: Answer, request: HttpRequest, origins: Sequence[str]) -> dict[str, str]:
    headers: dict[str, str] = {"content-length": str(len(answer.body)), "x-request-id": request.id}
    if answer.media_type:
        headers["content-type"] = answer.media_type
    facts = request.trace.facts
    if facts is not None:
        headers |= {"x-bundle-digest": facts.digest, "x-engine": facts.engine, "x-precision": facts.precision}
    if origins:
        headers |= origin_headers(request.headers, origins)
    return headers | {name.lower(): value for name, value in answer.headers.items()}


async def _live(receive: Receive, send: Send) -> None:
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return
