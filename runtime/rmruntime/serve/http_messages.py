"""What a protocol's handler is given and what it returns: a request with its parsed body, and an answer."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rmruntime.batching.runner import Statistics
from rmruntime.errors import NonFiniteScore

JSON_TYPE = "application/json"


@dataclass(kw_only=True)
class Trace:
    """What is known of a request for its log line, its metrics and its answer's headers; filled while it is answered.

    `records` were asked for; `statistics` are their tokens, given, computed and cached. `facts` are those of the bundle
    that answered (`rmruntime.serve.served_model.ModelFacts`), None before one is known. `read_seconds`,
    `tokenize_seconds` and `score_seconds` are the time to read the body, to put records into the queue, and from there
    to their scores. `protocol`, `route` and `quiet` are the route's.
    """

    protocol: str = ""
    route: str = ""
    quiet: bool = False
    read_seconds: float = 0.0
    records: int = 0
    statistics: Statistics = field(default_factory=Statistics)
    facts: Any = None
    tokenize_seconds: float = 0.0
    score_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class HttpRequest:
    """One request, its body read whole.

    `headers` have lower-case names. `data` is the parsed body of a route with `body` "json", else None. `places` are
    the parts of the path that the route names, such as "session" in "/v1/sessions/{session}". `id` is the client's
    X-Request-Id, or one of our own; answers carry it. `deadline` is when scoring must have begun, by time.monotonic();
    None for no such time.

    >>> HttpRequest(method="GET", path="/health").header("accept", "any")
    'any'
    """

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    data: Any = None
    places: Mapping[str, str] = field(default_factory=dict)
    id: str = ""
    deadline: float | None = None
    trace: Trace = field(default_factory=Trace)

    def header(self, name: str, default: str = "") -> str:
        """The value of a header, whose name is given in lower case."""
        return self.headers.get(name, default)

    def seconds_left(self) -> float | None:
        """Until the deadline; None without one."""
        return None if self.deadline is None else self.deadline - time.monotonic()


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Status, headers and body of an answer. Headers that every answer has are added by the application.

    >>> Answer.of_json({"score": 0.5}).body
    b'{"score":0.5}'
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    media_type: str = ""

    @classmethod
    def of_json(cls, data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> "Answer":
        """`data` as JSON. Raises NonFiniteScore for a number that JSON does not have."""
        try:
            text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        except ValueError as error:
            raise NonFiniteScore(
                f"the answer has a number that is not finite, which JSON does not have: {error}"
            ) from None
        body = text.encode(errors="backslashreplace")  # half a surrogate pair has no UTF-8 encoding
        return cls(status=status, headers=headers or {}, body=body, media_type=JSON_TYPE)

    @classmethod
    def of_text(cls, text: str, media_type: str = "text/plain; charset=utf-8") -> "Answer":
        """`text` in UTF-8.

        >>> Answer.of_text("ok").body
        b'ok'
        """
        return cls(body=text.encode(), media_type=media_type)
