"""Sessions over HTTP: solutions that grow step by step, for search that is guided by their scores."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from rmruntime.batching.runner import Statistics
from rmruntime.errors import InputError
from rmruntime.scores import Score
from rmruntime.serve.fields import Fields, wrong
from rmruntime.serve.http_messages import Answer, HttpRequest
from rmruntime.serve.problems import Refused, own_error_body, problem_of
from rmruntime.serve.protocols.base import Protocol, Route
from rmruntime.serve.record_fields import model_of, options_of, usage_of
from rmruntime.serve.server_options import SECONDS
from rmruntime.serve.service import Service
from rmruntime.serve.session_store import OpenSession
from rmruntime.sessions.session import Session

AFFINITY = "x-session-affinity"
MOST_FORKS = 10_000
MOST_OPERATIONS = 10_000


async def open_one(request: HttpRequest, service: Service) -> Answer:
    """POST /v1/sessions: {"prompt" or "messages", "steps"?, "ttl_s"?, "model"?} and the options of scoring."""
    fields = Fields(request.data)
    served = service.model(fields.optional_text("model"))
    prompt = fields.value("messages") if "messages" in fields else fields.required("prompt", "a text or messages")
    steps = fields.texts("steps") if "steps" in fields else []
    options, ttl = options_of(fields), _seconds(fields, service.options.session_ttl)
    with served.lease() as generation:
        request.trace.facts = generation.facts
        session = await service.sessions.run(lambda: generation.model.session(prompt, steps, options))
        entry = service.sessions.add(session, generation, ttl)
    return _answer(service, {"session": entry.id, "model": model_of(generation.facts), "ttl_s": ttl})


async def show(request: HttpRequest, service: Service) -> Answer:
    """GET /v1/sessions/{session}: the number of its steps, and how long it has not been used."""
    entry = _entry(request, service)
    content = {"session": entry.id, "steps": len(entry.session.texts), "idle_s": round(entry.idle, 3)}
    return _answer(service, {**content, "ttl_s": entry.ttl})


async def end(request: HttpRequest, service: Service) -> Answer:
    """DELETE /v1/sessions/{session}."""
    service.sessions.end(_entry(request, service))
    return Answer(status=204, headers={AFFINITY: service.sessions.affinity})


async def operate(request: HttpRequest, service: Service) -> Answer:
    """POST /v1/sessions/{session}/{operation}: append, score, fork or rollback."""
    name, fields = request.places["operation"], Fields({} if request.data is None else request.data)
    if name not in _OPERATIONS:
        raise Refused("not_found", f"found the operation {name[:40]!r}, expected one of {', '.join(_OPERATIONS)}")
    return _answer(service, await _OPERATIONS[name](request, service, _entry(request, service), fields))


async def operate_many(request: HttpRequest, service: Service) -> Answer:
    """POST /v1/sessions:batch: {"ops": [{"op": "append", "session", "steps"}, ...]}, in their order.

    Neighbouring appends to different sessions are scored in the same passes. An operation that fails has "error" in
    its place, and the others go on.
    """
    operations = [Fields(item) for item in Fields(request.data).items("ops", "a list of operations")]
    if len(operations) > MOST_OPERATIONS:
        raise wrong("ops", f"{len(operations)} operations", f"at most {MOST_OPERATIONS}")
    results: list[dict[str, Any]] = []
    while len(results) < len(operations):
        group = _appends(operations[len(results) :])
        if len(group) > 1:
            results += await _append_together(request, service, group)
        else:
            results.append(await _try_one(request, service, operations[len(results)]))
    return _answer(service, {"results": results})


async def _append(request: HttpRequest, service: Service, entry: OpenSession, fields: Fields) -> dict[str, Any]:
    steps, session = _steps(fields), entry.session

    def work() -> dict[str, Any]:
        values = session.append(steps)
        return {"steps": values, "tokens": session.tokens}

    return await _used(request, service, entry, work)


async def _score(request: HttpRequest, service: Service, entry: OpenSession, fields: Fields) -> dict[str, Any]:
    steps = _steps(fields) if "steps" in fields or "text" in fields else None
    session = entry.session
    return await _used(request, service, entry, lambda: _whole(session, session.score(steps), steps or []))


async def _fork(request: HttpRequest, service: Service, entry: OpenSession, fields: Fields) -> dict[str, Any]:
    count = fields.integer("n", least=1) or 1
    most = min(MOST_FORKS, service.options.max_sessions - 1)
    if count > most:
        raise wrong("n", count, f"at most {most}")
    forks = entry.session.fork(count)
    return {"sessions": [service.sessions.add(fork, entry.generation, entry.ttl).id for fork in forks]}


async def _rollback(request: HttpRequest, service: Service, entry: OpenSession, fields: Fields) -> dict[str, Any]:
    count = fields.integer("count", least=0)
    entry.session.rollback(1 if count is None else count)
    return {"steps": len(entry.session.texts)}


async def _close(request: HttpRequest, service: Service, entry: OpenSession, fields: Fields) -> dict[str, Any]:
    service.sessions.end(entry)
    return {}


Operation = Callable[[HttpRequest, Service, OpenSession, Fields], Awaitable[dict[str, Any]]]
_OPERATIONS: Mapping[str, Operation] = {
    "append": _append,
    "score": _score,
    "fork": _fork,
    "rollback": _rollback,
    "close": _close,
}


def _whole(session: Session, score: Score, peeked: Sequence[str]) -> dict[str, Any]:
    """A session's score, with the values of its steps: for a head that judges answers, of those it has."""
    steps = list(score.steps if score.steps is not None else session.steps)
    if score.steps is None and score.value is not None and peeked:
        steps.append(score.value)
    return {"score": score.value, "steps": steps, "tokens": score.tokens}


async def _used(
    request: HttpRequest, service: Service, entry: OpenSession, work: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """What `work` returns, with the tokens that it took; records the request."""
    before = entry.session.statistics
    found = await service.sessions.use([entry], work)
    after = entry.session.statistics
    statistics = Statistics() if after is before else after  # a call with nothing to score leaves the last one's
    _record(request, entry, statistics)
    return {**found, "usage": usage_of(statistics)}


def _record(request: HttpRequest, entry: OpenSession, statistics: Statistics) -> None:
    request.trace.facts = entry.generation.facts
    request.trace.records += 1
    request.trace.statistics += statistics


def _appends(operations: Sequence[Fields]) -> list[Fields]:
    """The operations at the beginning that append, each to another session."""
    group: list[Fields] = []
    for fields in operations:
        if fields.value("op") != "append" or any(fields.value("session") == own.value("session") for own in group):
            break
        group.append(fields)
    return group


async def _append_together(
    request: HttpRequest, service: Service, operations: Sequence[Fields]
) -> list[dict[str, Any]]:
    """The results of appends to different sessions, those of one bundle in the same passes."""
    results: dict[int, dict[str, Any]] = {}
    moves: dict[int, tuple[OpenSession, list[str]]] = {}
    for place, fields in enumerate(operations):
        try:
            moves[place] = (service.sessions.find(fields.text("session")), _steps(fields))
        except Exception as error:  # of any type: it is this operation's
            results[place] = _failed(error)
    by_bundle: dict[int, list[int]] = {}
    for place, (entry, _) in moves.items():
        by_bundle.setdefault(id(entry.generation), []).append(place)
    for places in by_bundle.values():
        found = await _append_group(request, service, [moves[place] for place in places])
        results |= dict(zip(places, found, strict=True))
    return [results[place] for place in range(len(operations))]


async def _append_group(
    request: HttpRequest, service: Service, moves: Sequence[tuple[OpenSession, list[str]]]
) -> list[dict[str, Any]]:
    """The results of appends to different sessions of one bundle."""
    entries = [entry for entry, _ in moves]
    model, pairs = entries[0].generation.model, [(entry.session, steps) for entry, steps in moves]
    try:
        found = await service.sessions.use(entries, lambda: model.append_many(pairs))
    except Exception as error:  # of any type: it is that of each of these operations
        return [_failed(error) for _ in moves]
    return [_appended(request, entry, values) for entry, values in zip(entries, found, strict=True)]


def _appended(request: HttpRequest, entry: OpenSession, values: list[float] | InputError) -> dict[str, Any]:
    if isinstance(values, InputError):
        return _failed(values)
    statistics = entry.session.statistics
    _record(request, entry, statistics)
    return {"steps": values, "tokens": entry.session.tokens, "usage": usage_of(statistics)}


async def _try_one(request: HttpRequest, service: Service, fields: Fields) -> dict[str, Any]:
    try:
        name = fields.choice("op", tuple(_OPERATIONS), "")
        entry = service.sessions.find(fields.text("session"))
        return await _OPERATIONS[name](request, service, entry, fields)
    except Exception as error:  # of any type: it is this operation's
        return _failed(error)


def _failed(error: Exception) -> dict[str, Any]:
    return own_error_body(problem_of(error), 0)


def _entry(request: HttpRequest, service: Service) -> OpenSession:
    entry = service.sessions.find(request.places["session"])
    request.trace.facts = entry.generation.facts
    return entry


def _steps(fields: Fields) -> list[str]:
    """The steps of an operation: "steps", a list, or "text", one."""
    steps = fields.texts("steps") if "steps" in fields else [fields.text("text")]
    if not steps:
        raise wrong("steps", steps, "at least one step")
    return steps


def _seconds(fields: Fields, default: float) -> float:
    found = fields.value("ttl_s", default)
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not SECONDS.least <= found <= SECONDS.most:
        raise wrong("ttl_s", found, SECONDS.noun)
    return float(found)


def _answer(service: Service, content: Mapping[str, Any]) -> Answer:
    """An answer that says which process has the session."""
    return Answer.of_json(content, headers={AFFINITY: service.sessions.affinity})


PROTOCOL = Protocol(
    name="sessions",
    routes=(
        Route("POST", "/v1/sessions", open_one),
        Route("POST", "/v1/sessions:batch", operate_many),
        Route("GET", "/v1/sessions/{session}", show, body="none"),
        Route("DELETE", "/v1/sessions/{session}", end, body="none"),
        Route("POST", "/v1/sessions/{session}/{operation}", operate),
    ),
    error_body=own_error_body,
)
