"""Why a request has no result: one kind for each cause, from which every protocol makes its own status and body."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from rmruntime.errors import (
    BackendError,
    BundleError,
    DeadlineExceeded,
    InputError,
    InputTooLong,
    NonFiniteScore,
    OptionError,
    QueueFull,
    RewardModelError,
)

Kind = Literal[
    "malformed",
    "unscorable",
    "too_long",
    "unauthorized",
    "not_found",
    "unknown_model",
    "unknown_session",
    "wrong_method",
    "conflict",
    "too_large",
    "overloaded",
    "unavailable",
    "deadline",
    "too_slow",
    "engine",
    "internal",
]

# The status of each kind where a protocol states no other.
STATUSES: Mapping[Kind, int] = {
    "malformed": 400,
    "unscorable": 400,
    "too_long": 400,
    "unauthorized": 401,
    "not_found": 404,
    "unknown_model": 404,
    "unknown_session": 404,
    "wrong_method": 405,
    "conflict": 409,
    "too_large": 413,
    "overloaded": 503,
    "unavailable": 503,
    "deadline": 504,
    "too_slow": 408,
    "engine": 500,
    "internal": 500,
}
# Kinds after which the same request may succeed later: their answers have Retry-After.
PASSING: frozenset[Kind] = frozenset({"overloaded", "unavailable"})


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Why there is no result.

    - "malformed": the body is not JSON, a field is missing or of the wrong type, or asks for what is not offered.
    - "unscorable": a record cannot be scored. "too_long": it has more tokens than the limit.
    - "unauthorized", "not_found" (no such path), "unknown_model", "unknown_session", "wrong_method".
    - "conflict": another call uses the session. "too_large": the body, or its nesting.
    - "overloaded": the queue is full. "unavailable": the model is loading, or the server ends.
    - "deadline": scoring had not begun in time. "too_slow": the body did not come in time.
    - "engine": the engine failed, or a score is not finite. "internal": a fault of the server.

    `field` names the body's field where one is wrong, `index` the record of several. `retry_after` are seconds.
    """

    kind: Kind
    message: str
    field: str | None = None
    index: int | None = None
    retry_after: float | None = None


class Refused(RewardModelError):
    """Raised by handlers, and by what they call, to answer a request with a problem.

    >>> Refused("malformed", "query: found 5, expected a text", field="query").problem.field
    'query'
    """

    def __init__(
        self,
        kind: Kind,
        message: str,
        *,
        field: str | None = None,
        index: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.problem = Problem(kind=kind, message=message, field=field, index=index, retry_after=retry_after)


_KINDS: tuple[tuple[type[Exception], Kind], ...] = (  # the first that matches
    (InputTooLong, "too_long"),
    (NonFiniteScore, "engine"),
    (InputError, "unscorable"),
    (OptionError, "malformed"),
    (QueueFull, "overloaded"),
    (DeadlineExceeded, "deadline"),
    (BackendError, "engine"),
    (BundleError, "engine"),
    (RewardModelError, "unavailable"),  # the model is drained or closed
)


def problem_of(error: Exception) -> Problem:
    """The problem of an error; one that no code expected is "internal", and its text stays in the log.

    >>> problem_of(QueueFull("9 requests wait")).kind, problem_of(KeyError("secret")).message
    ('overloaded', 'the server failed; its log has the reason')
    """
    if isinstance(error, Refused):
        return error.problem
    for kind_of_error, kind in _KINDS:
        if isinstance(error, kind_of_error):
            return Problem(kind=kind, message=str(error), index=getattr(error, "record_index", None))
    return Problem(kind="internal", message="the server failed; its log has the reason")


def own_error_body(problem: Problem, status: int) -> dict[str, object]:
    """The shape of errors in our own protocols: {"error": {"kind", "message", "field"?, "index"?}}.

    >>> own_error_body(Problem(kind="malformed", message="found no text", field="text"), 400)
    {'error': {'kind': 'malformed', 'message': 'found no text', 'field': 'text'}}
    """
    places = {"field": problem.field, "index": problem.index}
    named = {name: value for name, value in places.items() if value is not None}
    return {"error": {"kind": problem.kind, "message": problem.message, **named}}
