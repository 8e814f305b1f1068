"""SGLang's own /classify, which its clients ask for rewards: `text` or `input_ids` in, `embedding` out.

The path is vLLM's too, whose requests have other fields. sglang_openai.py has SGLang's routes in OpenAI's manner, whose
errors have another shape.
"""

from collections.abc import Mapping
from typing import Any

from rmruntime.scores import Score
from rmruntime.serve.activation import label_values
from rmruntime.serve.fields import Fields, wrong
from rmruntime.serve.http_messages import Answer, HttpRequest
from rmruntime.serve.problems import Problem
from rmruntime.serve.protocols.base import Protocol, Route, has_any
from rmruntime.serve.served_model import ModelFacts
from rmruntime.serve.service import Service

# What SGLang offers for other models, and this server cannot do: better refused than ignored.
_REFUSED: Mapping[str, str] = {
    "dimensions": "none: scores have no dimensions to cut",
    "lora_path": "none: adapters are merged when a model is exported",
    "priority": "0: requests are answered in the order in which they come",
    "return_pooled_hidden_states": "false: only scores are computed",
    "image_data": "none: only texts are scored",
}
_TEXTS = "a text, a list of texts, or a list of pairs of texts"


async def classify(request: HttpRequest, service: Service) -> Answer:
    """POST /classify: {"text"} or {"input_ids"}, one or a list; a list is answered by a list, one by an object."""
    fields = Fields(request.data)
    fields.refuse(_REFUSED)
    model = service.model(fields.optional_text("model"))
    records, several = _records(fields)
    scoring = await service.score(request, model, records)
    ids = _ids(fields, len(records), request.id)
    found = [_result(score, scoring.facts, name) for score, name in zip(scoring.scores, ids, strict=True)]
    return Answer.of_json(found if several else found[0])


def error_body(problem: Problem, status: int) -> object:
    """{"error": {"message"}}; without a key {"error": "Unauthorized"}."""
    if problem.kind == "unauthorized":
        return {"error": "Unauthorized"}
    return {"error": {"message": problem.message}}


def _records(fields: Fields) -> tuple[list[dict[str, Any]], bool]:
    """The records, and whether the request has a list of them."""
    if "text" not in fields:
        return _token_records(fields.items("input_ids", "token ids, or lists of them"))
    given = fields.value("text")
    if isinstance(given, str):
        return [{"text": given}], False
    if not isinstance(given, list) or not given:
        raise wrong("text", given, _TEXTS)
    return [_text_record(item, index) for index, item in enumerate(given)], True


def _token_records(given: list[Any]) -> tuple[list[dict[str, Any]], bool]:
    if given and all(isinstance(item, list) for item in given):
        return [{"input_ids": item} for item in given], True
    if not given or any(type(item) is not int for item in given):
        raise wrong("input_ids", given, "token ids, or lists of them")
    return [{"input_ids": given}], False


def _text_record(item: Any, index: int) -> dict[str, Any]:
    if isinstance(item, str):
        return {"text": item}
    if isinstance(item, list) and len(item) == 2 and all(isinstance(text, str) for text in item):
        return {"query": item[0], "document": item[1]}
    raise wrong(f"text[{index}]", item, "a text, or a pair of texts")


def _ids(fields: Fields, count: int, own: str) -> list[Any]:
    """The id of each text: `rid`, one for each or the beginning of all; the request's own without it."""
    given = fields.value("rid", own)
    if isinstance(given, str):
        return [given] if count == 1 else [f"{given}_{index}" for index in range(count)]
    if not isinstance(given, list) or len(given) != count or not all(isinstance(name, str) for name in given):
        raise wrong("rid", given, "a text, or one for each text that is to be scored")
    return given


def _result(score: Score, facts: ModelFacts, name: str) -> dict[str, Any]:
    meta = {"id": name, "finish_reason": None, "prompt_tokens": score.tokens, "weight_version": facts.digest}
    return {"embedding": label_values(score, facts), "meta_info": meta}


PROTOCOL = Protocol(
    name="sglang",
    routes=(Route("POST PUT", "/classify", classify, accepts=has_any("text", "input_ids")),),
    error_body=error_body,
)
