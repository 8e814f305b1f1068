"""How a protocol plugs into the server: a file in this folder with PROTOCOL, found by discovery and named nowhere else.

A protocol is what one kind of client expects: its routes, the shape of its answers, and the shape and statuses of its
errors. It never touches sockets, the queue or the engine; it turns a parsed request into records, has the service score
them, and writes the scores down:

    async def score_pairs(request: HttpRequest, service: Service) -> Answer:
        fields = Fields(request.data)                             # raises Refused for a field of the wrong type
        model = service.model(fields.optional_text("model"))      # raises Refused("unknown_model")
        records = [{"query": fields.text("query"), "document": text} for text in fields.texts("documents")]
        scoring = await service.score(request, model, records)    # raises for the first that has no score
        return Answer.of_json({"model": model.name, "scores": [score.value for score in scoring.scores]})

    PROTOCOL = Protocol(
        name="example",
        routes=(Route("POST", "/example", score_pairs, accepts=has_any("documents")),),
        error_body=lambda problem, status: {"error": problem.message},
        statuses={"overloaded": 429},
    )

Routes
- `path` is matched whole. A part in braces matches one part of the path: `request.places["session"]`.
- `body` is "json" (parsed into `request.data`; size, depth and syntax were checked), "raw" (`request.body` alone, such
  as for KServe's binary tensors) or "none" (whatever comes is ignored).
- Where several protocols have one path, `accepts` tells them apart by the parsed body, for which all must be "json";
  at most one route has none and takes the rest. It also answers for what is wrong before a body is parsed; without
  one that is the first protocol by the names of their files. Two routes that could both be meant are a ModuleError
  when the server starts.
- `open` routes answer without an API key: health and readiness alone. `quiet` ones write no log line.

Scoring, through `rmruntime.serve.service.Service`
- `service.model(name)` is the model to use. With one bundle any name passes, as clients send paths; with several a name
  that is none of theirs is Refused("unknown_model"). A model has `name` and `facts` (ModelFacts: digest, engine,
  precision, dtype, max_length in tokens, labels, by_step, ...), and `tokenize`.
- `await service.score(request, model, records, options)` scores any number of the CLI's records, which wait in the
  queue that all requests share, with the request's deadline; they are taken back when the client goes. It raises the
  first error of a record, with its index where there are several. `service.score_each` has the InputError of a record
  in its place instead. Text that is templated already is the record {"text": ...}, ids are {"input_ids": [...]}.
- `await service.run(request, work)` runs what may take long, such as tokenizing a large text, off the event loop.
- Neither ever invents a number: a protocol must not answer 0 or null in the place of a reward.
- `rmruntime.serve.activation.label_values(score, facts, activation)` are the numbers of one scored conversation as
  classification servers give them, raw where the client's flag is absent (None), activated or not where it says so.

Errors
- Raise Refused(kind, message), or let errors of the runtime pass: the application turns each into a Problem
  (`rmruntime.serve.problems`, which lists the kinds and their usual statuses), and calls `error_body(problem, status)`
  of the route's protocol for the body, JSON or None for an empty one. `statuses` are those that differ from the usual
  ones, so that this protocol's clients retry as they should. Retry-After is added to "overloaded" and "unavailable".

What every answer has besides is added for all protocols: X-Request-Id, and the bundle's digest, engine and precision in
the headers X-Bundle-Digest, X-Engine and X-Precision.

Tests drive the application in process: `AsgiClient` in tests/support/asgi_client.py, and the fixtures of
tests/runtime/serve/conftest.py (`client`, over a tiny reward model). tests/runtime/serve/protocols/test_rewards.py is
an example. tests/runtime/serve/test_protocols.py runs over whatever discovery finds.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rmruntime.serve.http_messages import Answer, HttpRequest
from rmruntime.serve.problems import Kind, Problem
from rmruntime.serve.service import Service

Handler = Callable[[HttpRequest, Service], Awaitable[Answer]]
Accepts = Callable[[Any], bool]  # of the parsed body
ErrorBody = Callable[[Problem, int], Any]  # of a problem and the answer's status


@dataclass(frozen=True)
class Route:
    """One method and path, and what answers it. `methods` may be several, separated by spaces: "GET POST"."""

    methods: str
    path: str
    handler: Handler
    accepts: Accepts | None = None
    body: Literal["json", "raw", "none"] = "json"
    open: bool = False
    quiet: bool = False


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What one kind of client expects; the module docstring describes each part."""

    name: str
    routes: tuple[Route, ...]
    error_body: ErrorBody
    statuses: Mapping[Kind, int] = field(default_factory=dict)


def has_any(*names: str) -> Accepts:
    """Accepts an object with at least one of these fields that is not null.

    >>> has_any("text", "input_ids")({"text": "Hello"})
    True
    """
    return lambda data: isinstance(data, Mapping) and any(data.get(name) is not None for name in names)
