"""Our own protocol: the records of the command line, one or many, with every output that the model has."""

from collections.abc import Mapping
from typing import Any, get_args

from rmruntime.batching.runner import Statistics
from rmruntime.errors import InputError
from rmruntime.options import Aggregate, ScoreOptions
from rmruntime.score_file import result_fields
from rmruntime.serve.fields import Fields, wrong
from rmruntime.serve.http_messages import Answer, HttpRequest
from rmruntime.serve.problems import own_error_body, problem_of
from rmruntime.serve.protocols.base import Protocol, Route
from rmruntime.serve.score_call import ScoredRecord, located
from rmruntime.serve.served_model import ModelFacts
from rmruntime.serve.service import Service

_OPTIONS = ("truncate", "max_length", "aggregate", "strict_content")


async def rewards(request: HttpRequest, service: Service) -> Answer:
    """POST /v1/rewards: {"records": [...]} or one record, beside "model" and options.

    Answers {"model": {...}, "results": [...], "usage": {...}}, for one record {"model", "result", "usage"}. A result
    has the fields that `rmruntime score` writes, and the "id" where the record has one. With "on_error": "skip" a
    record that cannot be scored has "error" in its result; else it is the answer's.
    """
    fields = Fields(request.data)
    model = service.model(fields.optional_text("model"))
    skip = fields.choice("on_error", ("stop", "skip"), "stop") == "skip"
    several = "records" in fields
    records = fields.items("records", "a list of records") if several else [_lone(fields)]
    score = service.score_each if skip else service.score
    scoring = await score(request, model, records, options_of(fields))
    results = [_result(record, index, len(records)) for index, record in enumerate(scoring.records)]
    answer: dict[str, Any] = {"model": model_of(scoring.facts)}
    answer |= {"results": results} if several else {"result": results[0]}
    return Answer.of_json(answer | {"usage": usage_of(scoring.statistics)})


def options_of(fields: Fields) -> ScoreOptions:
    """The scoring options among a body's fields. Raises Refused ("malformed")."""
    sides: Any = fields.choice("truncate", ("left", "right"), "left") if "truncate" in fields else None
    aggregate: Any = fields.choice("aggregate", get_args(Aggregate), "mean")
    return ScoreOptions(
        truncate=sides,
        max_length=fields.integer("max_length", least=1),
        aggregate=aggregate,
        strict_content=bool(fields.flag("strict_content")),
    )


def model_of(facts: ModelFacts) -> dict[str, Any]:
    """Which bundle and engine answered.

    `digest` is the manifest's, by which two bundles are the same.
    """
    return {"name": facts.name, "digest": facts.digest, "engine": facts.engine, "precision": facts.precision}


def usage_of(statistics: Statistics) -> dict[str, int]:
    """Tokens given, computed and cached.

    >>> usage_of(Statistics(given=5, computed=3, cached=2))
    {'tokens': 5, 'computed_tokens': 3, 'cached_tokens': 2}
    """
    return {
        "tokens": statistics.given,
        "computed_tokens": statistics.computed,
        "cached_tokens": statistics.cached,
    }


def _lone(fields: Fields) -> Mapping[str, Any]:
    """The record that the body itself is, without the fields that are not a record's."""
    record = {name: value for name, value in fields.given.items() if name not in ("model", "on_error", *_OPTIONS)}
    if not record:
        raise wrong("records", None, "a list of records, or the fields of one record")
    return record


def _result(record: ScoredRecord, index: int, count: int) -> dict[str, Any]:
    found: InputError | Any = record.result
    if isinstance(found, InputError):
        found = located(found, index, count)
        return {"error": {"kind": problem_of(found).kind, "message": str(found)}} | _id(found.record_id)
    assert record.request is not None  # it was scored
    own = _id(record.request.id) | result_fields(record.request, found)
    tokens = [score.tokens for score in (found if isinstance(found, list) else [found])]
    return own | {"tokens": tokens if isinstance(found, list) else tokens[0]}


def _id(identity: object) -> dict[str, Any]:
    return {} if identity is None else {"id": identity}


PROTOCOL = Protocol(
    name="rewards",
    routes=(Route("POST", "/v1/rewards", rewards),),
    error_body=own_error_body,
)
