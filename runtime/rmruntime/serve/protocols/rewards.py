"""Our own protocol: the records of the command line, one or many, with every output that the model has."""

from collections.abc import Mapping
from typing import Any

from rmruntime.errors import InputError
from rmruntime.score_file import result_fields
from rmruntime.serve.fields import Fields, wrong
from rmruntime.serve.http_messages import Answer, HttpRequest
from rmruntime.serve.problems import own_error_body, problem_of
from rmruntime.serve.protocols.base import Protocol, Route
from rmruntime.serve.record_fields import OPTIONS, model_of, options_of, usage_of
from rmruntime.serve.score_call import ScoredRecord, located
from rmruntime.serve.service import Service


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


def _lone(fields: Fields) -> Mapping[str, Any]:
    """The record that the body itself is, without the fields that are not a record's."""
    record = {name: value for name, value in fields.given.items() if name not in ("model", "on_error", *OPTIONS)}
    if not record:
        raise wrong("records", None, "a list of records, or the fields of one record")
    return record


def _result(record: ScoredRecord, index: int, count: int) -> dict[str, Any]:
    found: InputError | Any = record.result
    if isinstance(found, InputError):
        found = located(found, index, count)
        return own_error_body(problem_of(found), 0) | _id(found.record_id)
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
