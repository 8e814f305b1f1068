"""vLLM's routes for pooling models: /classify, /pooling, /score, /rerank (Cohere's and Jina's too) and /tokenize.

Their paths are shared with other protocols; these routes take whatever no other one accepts. Bodies may have fields
that are not read, as vLLM's own may. Scores are raw unless `use_activation` (or `activation`, its older name) is true.
"""

import base64
import struct
import time
from collections.abc import Mapping, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any

from rmruntime.records import parse_record
from rmruntime.scores import Score
from rmruntime.sequences import Ints
from rmruntime.serve.activation import label_values, score_value, step_values
from rmruntime.serve.fields import Fields, wrong
from rmruntime.serve.http_messages import Answer, HttpRequest
from rmruntime.serve.problems import Problem, Refused
from rmruntime.serve.protocols._vllm_inputs import (
    activation_of,
    options_of,
    pair_records,
    rank_record,
    records_of,
)
from rmruntime.serve.protocols.base import Protocol, Route
from rmruntime.serve.score_call import Scoring
from rmruntime.serve.served_model import ModelFacts, ServedModel
from rmruntime.serve.service import Service
from rmruntime.text.request_tokenizer import RequestTokenizer

_TYPES = {400: "BadRequestError", 404: "NotFoundError", 500: "InternalServerError", 503: "Service Unavailable"}
_BYTE_ORDERS = {"native": "=", "little": "<", "big": ">"}
_FLOATS = {"float32": "f", "float16": "e"}


async def classify(request: HttpRequest, service: Service) -> Answer:
    """POST /classify: the numbers of each text or conversation, with the label of the highest."""
    fields = Fields(request.data)
    scoring, activation = await _scored(request, service, fields, None), activation_of(fields)
    data = [_class(index, score, scoring.facts, activation) for index, score in enumerate(scoring.scores)]
    return Answer.of_json(_body(request, fields, "classify", scoring) | {"data": data, "usage": _usage(scoring)})


async def pooling(request: HttpRequest, service: Service) -> Answer:
    """POST /pooling: for a model that judges answers their numbers, for one that judges steps a row for each step."""
    fields = Fields(request.data)
    model = service.model(fields.optional_text("model"))
    _check_task(fields, model.facts)
    scoring, activation = await _scored(request, service, fields, model), activation_of(fields)
    data = [
        {"index": index, "object": "pooling", "data": _encoded(fields, _rows(score, scoring.facts, activation))}
        for index, score in enumerate(scoring.scores)
    ]
    return Answer.of_json(_body(request, fields, "pooling", scoring) | {"data": data, "usage": _usage(scoring)})


async def score(request: HttpRequest, service: Service) -> Answer:
    """POST /score: pairs of texts. For a model that judges answers the first is the prompt, the second the answer."""
    fields = Fields(request.data)
    model = service.model(fields.optional_text("model"))
    scoring = await service.score(request, model, pair_records(fields), options_of(fields, model))
    activation = activation_of(fields)
    data = [
        {"index": index, "object": "score", "score": score_value(found, activation)}
        for index, found in enumerate(scoring.scores)
    ]
    return Answer.of_json(_body(request, fields, "score", scoring) | {"data": data, "usage": _usage(scoring)})


async def rerank(request: HttpRequest, service: Service) -> Answer:
    """POST /rerank, /v1/rerank and /v2/rerank: a query's documents, the best first, equal ones in their own order."""
    fields = Fields(request.data)
    model, top = service.model(fields.optional_text("model")), fields.integer("top_n", least=0)
    record, activation = rank_record(fields), activation_of(fields)
    scoring = await service.score(request, model, [record], options_of(fields, model))
    values = [score_value(found, activation) for found in scoring.scores]
    best = sorted(range(len(values)), key=lambda index: -values[index])
    with_documents = fields.flag("return_documents") is not False
    results = [
        {"index": index, **_document(record["documents"][index], with_documents), "relevance_score": values[index]}
        for index in best[: top or None]
    ]
    body = _body(request, fields, "score", scoring)
    used = {name: _usage(scoring)[name] for name in ("prompt_tokens", "total_tokens")}
    return Answer.of_json({"id": body["id"], "model": body["model"], "usage": used, "results": results})


async def tokenize(request: HttpRequest, service: Service) -> Answer:
    """POST /tokenize: the ids of a text, or of messages, which open an assistant's turn unless the request says no."""
    fields = Fields(request.data)
    model = service.model(fields.optional_text("model"))
    tokenizer = model.model.tokenizer
    tokens = (await service.run(request, partial(_ids, fields, tokenizer))).tolist()
    texts = [tokenizer.text_of(token) for token in tokens] if fields.flag("return_token_strs") else None
    limit = model.facts.max_length
    return Answer.of_json({"count": len(tokens), "max_model_len": limit, "tokens": tokens, "token_strs": texts})


async def detokenize(request: HttpRequest, service: Service) -> Answer:
    """POST /detokenize: the text of ids."""
    fields = Fields(request.data)
    tokens = fields.items("tokens", "a list of token ids")
    if any(type(token) is not int or not 0 <= token < 1 << 31 for token in tokens):
        raise wrong("tokens", tokens, "token ids")
    tokenizer = service.model(fields.optional_text("model")).model.tokenizer
    return Answer.of_json({"prompt": await service.run(request, partial(tokenizer.decode, tokens))})


async def models(request: HttpRequest, service: Service) -> Answer:
    """GET /v1/models: those that are loaded."""
    data = [_model_card(model.facts) for model in service.models.values() if model.is_loaded]
    return Answer.of_json({"object": "list", "data": data})


async def one_model(request: HttpRequest, service: Service) -> Answer:
    """GET /v1/models/{model}."""
    name = request.places["model"]
    if name not in service.models:
        raise Refused("unknown_model", f"The model `{name}` does not exist.", field="model")
    return Answer.of_json(_model_card(service.model(name).facts))


async def invocations(request: HttpRequest, service: Service) -> Answer:
    """POST /invocations, SageMaker's only route: what the fields of the body ask for."""
    fields = Fields(request.data)
    if "input" in fields or "messages" in fields:
        return await (pooling if "task" in fields else classify)(request, service)
    return await (rerank if "query" in fields else score)(request, service)


def error_body(problem: Problem, status: int) -> object:
    """{"error": {"message", "type", "param", "code"}}, as since vLLM 0.10; without a key {"error": "Unauthorized"}."""
    if problem.kind == "unauthorized":
        return {"error": "Unauthorized"}
    message, field = problem.message, problem.field
    if problem.kind == "too_long":  # words that clients look for
        message, field = f"This model's maximum context length is exceeded. {message}", "input_tokens"
    kind = _TYPES.get(status, HTTPStatus(status).phrase)
    return {"error": {"message": message, "type": kind, "param": field, "code": status}}


def _ids(fields: Fields, tokenizer: RequestTokenizer) -> Ints:
    """The ids [L] of a text or of messages."""
    if "messages" not in fields:
        special = fields.flag("add_special_tokens") is not False
        return tokenizer.encode_text(fields.text("prompt"), special=special)
    opens = fields.flag("add_generation_prompt") is not False
    [conversation] = parse_record({"messages": fields.value("messages")}).conversations
    return tokenizer.encode_messages(conversation.messages or (), generation_prompt=opens)


async def _scored(request: HttpRequest, service: Service, fields: Fields, model: ServedModel | None) -> Scoring:
    model = model or service.model(fields.optional_text("model"))
    return await service.score(request, model, records_of(fields), options_of(fields, model))


def _body(request: HttpRequest, fields: Fields, prefix: str, scoring: Scoring) -> dict[str, Any]:
    identity = request.id if "x-request-id" in request.headers else fields.optional_text("request_id") or request.id
    name = fields.optional_text("model") or scoring.facts.name
    return {"id": f"{prefix}-{identity}", "object": "list", "created": int(time.time()), "model": name}


def _usage(scoring: Scoring) -> dict[str, Any]:
    tokens = sum(found.tokens for found in scoring.scores)
    more = {"prompt_tokens_details": None, "completion_tokens_details": None}
    return {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0, **more}


def _class(index: int, found: Score, facts: ModelFacts, activation: bool | None) -> dict[str, Any]:
    values = label_values(found, facts, activation)
    highest = max(range(len(values)), key=values.__getitem__, default=0)
    label = facts.labels[highest] if len(values) > 1 else "LABEL_0"
    return {"index": index, "label": label, "probs": values, "num_classes": len(values)}


def _check_task(fields: Fields, facts: ModelFacts) -> None:
    own = "token_classify" if facts.by_step else "classify"
    task = fields.value("task", own)
    if task != own:
        raise wrong("task", task, f"{own!r} for this model. Try switching the model's pooling_task")


def _rows(found: Score, facts: ModelFacts, activation: bool | None) -> list[float] | list[list[float]]:
    """The numbers of an answer, [labels]; or of its steps, [steps, 1]."""
    if not facts.by_step:
        return label_values(found, facts, activation)
    return [[value] for value in step_values(found, activation)]


def _encoded(fields: Fields, rows: list[float] | list[list[float]]) -> Any:
    """The numbers as the request wants them: a list, or base64 of floats in row order."""
    if fields.choice("encoding_format", ("float", "base64"), "float") == "float":
        return rows
    kind = _FLOATS[fields.choice("embed_dtype", tuple(_FLOATS), "float32")]
    order = _BYTE_ORDERS[fields.choice("endianness", tuple(_BYTE_ORDERS), "native")]
    flat = [number for row in rows for number in (row if isinstance(row, list) else [row])]
    return base64.b64encode(struct.pack(f"{order}{len(flat)}{kind}", *flat)).decode()


def _document(text: str, wanted: bool) -> dict[str, Any]:
    return {"document": {"text": text, "multi_modal": None}} if wanted else {}


def _model_card(facts: ModelFacts) -> dict[str, Any]:
    permission: Mapping[str, Any] = {
        "id": f"modelperm-{facts.digest[:32]}",
        "object": "model_permission",
        "created": facts.created,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
    return {
        "id": facts.name,
        "object": "model",
        "created": facts.created,
        "owned_by": "rmruntime",
        "root": facts.source or facts.name,
        "parent": None,
        "max_model_len": facts.max_length,
        "permission": [permission],
    }


_RERANKS: Sequence[str] = ("/rerank", "/v1/rerank", "/v2/rerank")

PROTOCOL = Protocol(
    name="vllm",
    routes=(
        Route("POST", "/classify", classify),
        Route("POST", "/pooling", pooling),
        Route("POST", "/score", score),
        Route("POST", "/v1/score", score),
        *(Route("POST", path, rerank) for path in _RERANKS),
        Route("POST", "/tokenize", tokenize),
        Route("POST", "/detokenize", detokenize),
        Route("GET", "/v1/models", models, body="none"),
        Route("GET", "/v1/models/{model}", one_model, body="none"),
        Route("POST", "/invocations", invocations),
    ),
    error_body=error_body,
)
