"""SGLang's routes in OpenAI's manner: /v1/embeddings, which verl calls for rewards, and /v1/score.

Their errors have another shape than those of sglang.py. An embedding is the numbers of a text: for a reward model the
reward alone, raw.
"""

import base64
import struct
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from rmruntime.serve.activation import label_values, step_values
from rmruntime.serve.fields import Fields, wrong
from rmruntime.serve.http_messages import Answer, HttpRequest
from rmruntime.serve.openai_input import input_records
from rmruntime.serve.problems import Problem
from rmruntime.serve.protocols.base import Protocol, Route, has_any
from rmruntime.serve.score_call import Scoring
from rmruntime.serve.served_model import ServedModel
from rmruntime.serve.service import Service

# What SGLang offers for other models, and this server cannot do: better refused than ignored.
_REFUSED: Mapping[str, str] = {
    "dimensions": "none: scores have no dimensions to cut",
    "lora_path": "none: adapters are merged when a model is exported",
    "priority": "0: requests are answered in the order in which they come",
    "label_token_ids": "none: the bundle says what its scores are",
    "return_pooled_hidden_states": "false: only scores are computed",
    "return_token_logprobs": "false: only scores are computed",
}


async def embeddings(request: HttpRequest, service: Service) -> Answer:
    """POST /v1/embeddings: the numbers of each text, as a list or as base64 of 32-bit floats, little-endian."""
    fields = Fields(request.data)
    fields.refuse(_REFUSED)
    model = service.model(fields.optional_text("model"))
    coded = fields.choice("encoding_format", ("float", "base64"), "float") == "base64"
    records = input_records(fields)
    for index, record in enumerate(records):
        if not record.get("text", "a").strip():
            raise wrong(f"input[{index}]", record["text"], "a text that is not blank")
    scoring = await service.score(request, model, records)
    data = [
        {"object": "embedding", "embedding": _embedding(label_values(score, scoring.facts), coded), "index": index}
        for index, score in enumerate(scoring.scores)
    ]
    named = {"model": fields.optional_text("model") or scoring.facts.name}
    return Answer.of_json({"object": "list", "data": data, **named, "usage": _usage(scoring)})


async def score(request: HttpRequest, service: Service) -> Answer:
    """POST /v1/score: the numbers of the query with each item behind it, or in front of it with `item_first`.

    Both are joined as they are, without a template. With `score_extraction_token`, the tag of a process reward model's
    steps, each item has a list of numbers for each step.
    """
    fields = Fields(request.data)
    fields.refuse(_REFUSED)
    if fields.value("temperature", 1) != 1:
        raise wrong("temperature", fields.value("temperature"), "1: scores are not scaled")
    model = service.model(fields.optional_text("model"))
    by_step = _wants_steps(fields, model)
    activation = fields.flag("apply_softmax")
    scoring = await service.score(request, model, _joined(fields))
    scores = [
        [[value] for value in step_values(found, activation)]
        if by_step
        else label_values(found, scoring.facts, activation)
        for found in scoring.scores
    ]
    named = {"model": fields.optional_text("model") or scoring.facts.name}
    content = {"scores": scores, "pooled_hidden_states": None, "token_logprobs": None, **named}
    return Answer.of_json(content | {"usage": _usage(scoring), "object": "scoring"})


def error_body(problem: Problem, status: int) -> object:
    """{"object": "error", "message", "type", "param", "code"}; without a key {"error": "Unauthorized"}."""
    if problem.kind == "unauthorized":
        return {"error": "Unauthorized"}
    kind = "BadRequestError" if status == 400 else HTTPStatus(status).phrase.title().replace(" ", "")
    return {"object": "error", "message": problem.message, "type": kind, "param": problem.field, "code": status}


def _embedding(values: list[float], coded: bool) -> list[float] | str:
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode() if coded else values


def _usage(scoring: Scoring) -> dict[str, Any]:
    tokens = sum(found.tokens for found in scoring.scores)
    return {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0, "prompt_tokens_details": None}


def _joined(fields: Fields) -> list[dict[str, Any]]:
    """The records of the query with each item: texts, or the ids of both."""
    query = fields.required("query", "a text or token ids")
    given = fields.required("items", "a text, a list of texts, or lists of token ids")
    items = [given] if isinstance(given, str) else given
    if not isinstance(items, list) or not items:
        raise wrong("items", given, "at least one text or list of token ids")
    kind, name = (str, "text") if isinstance(query, str) else (list, "input_ids")
    if not isinstance(query, (str, list)):
        raise wrong("query", query, "a text or token ids")
    for index, item in enumerate(items):
        if not isinstance(item, kind):
            raise wrong(f"items[{index}]", item, "a text where the query is one, else token ids")
    item_first = fields.flag("item_first")
    return [{name: item + query if item_first else query + item} for item in items]


def _wants_steps(fields: Fields, model: ServedModel) -> bool:
    """Whether `score_extraction_token` asks for the steps. Raises Refused where it is not what the bundle reads."""
    token = fields.optional_text("score_extraction_token")
    if token is None:
        return False
    if not model.facts.by_step:
        raise wrong("score_extraction_token", token, "none: this model scores whole answers, not steps")
    manifest, ids = model.model.manifest, tuple(model.model.tokenizer.encode_text(token, special=False).tolist())
    tags = (manifest.format.step_tag, manifest.format.step_separator)
    if token not in tags and all(rule.tokens != ids for rule in manifest.positions.values()):
        known = [tag for tag in tags if tag] or [rule.text for rule in manifest.positions.values() if rule.text]
        raise wrong("score_extraction_token", token, f"the tag of this bundle's steps, {', '.join(map(repr, known))}")
    return True


PROTOCOL = Protocol(
    name="sglang-openai",
    routes=(
        Route("POST", "/v1/embeddings", embeddings),
        Route("POST", "/v1/score", score, accepts=has_any("query")),
    ),
    error_body=error_body,
)
