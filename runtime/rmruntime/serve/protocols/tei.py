"""text-embeddings-inference: /predict, /rerank and /info.

/rerank is vLLM's path too; TEI's requests have `texts`. Scores are raw unless `raw_scores` is false in the request; in
TEI itself that is what its absence means.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rmruntime.options import ScoreOptions
from rmruntime.scores import Score, ranked
from rmruntime.serve.activation import label_values, score_value
from rmruntime.serve.fields import Fields, wrong
from rmruntime.serve.http_messages import Answer, HttpRequest
from rmruntime.serve.problems import Kind, Problem
from rmruntime.serve.protocols.base import Protocol, Route, has_any
from rmruntime.serve.served_model import ModelFacts
from rmruntime.serve.service import THREADS, Service
from rmruntime.version import __version__

_INPUTS = 'a text, a pair of texts, or a list of these: [["text"], ["first", "second"], ...]'
_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
# What TEI answers where it differs from the usual: requests are validated after they were parsed.
_STATUSES: Mapping[Kind, int] = {
    "malformed": 422,
    "unscorable": 422,
    "too_long": 422,
    "overloaded": 429,
    "engine": 424,
}
_TYPES: Mapping[Kind, str] = {
    "overloaded": "Overloaded",
    "deadline": "Overloaded",
    "unavailable": "Unhealthy",
    "engine": "Backend",
    "internal": "Backend",
}


async def predict(request: HttpRequest, service: Service) -> Answer:
    """POST /predict: the labels of a text, the highest first; a list of two texts is one pair, as TEI has it."""
    fields = Fields(request.data)
    model = service.model(fields.optional_text("model"))
    records, several = _records(fields.required("inputs", _INPUTS))
    activation = _activation(fields)
    scoring = await service.score(request, model, records, _options(fields))
    found = [_labels(score, scoring.facts, activation) for score in scoring.scores]
    return Answer.of_json(found if several else found[0])


async def rerank(request: HttpRequest, service: Service) -> Answer:
    """POST /rerank with `texts`: their scores for a query, the best first, equal ones in their own order."""
    fields = Fields(request.data)
    model = service.model(fields.optional_text("model"))
    texts, activation = fields.texts("texts"), _activation(fields)
    if not texts:
        raise wrong("texts", texts, "at least one text")
    record = {"query": fields.text("query"), "documents": texts}
    with_text = fields.flag("return_text")
    scoring = await service.score(request, model, [record], _options(fields))
    values = [score_value(score, activation) for score in scoring.scores]
    best = ranked(texts, [Score(value=value) for value in values])
    return Answer.of_json(
        [{"index": one.index, **({"text": one.document} if with_text else {}), "score": one.score} for one in best]
    )


async def info(request: HttpRequest, service: Service) -> Answer:
    """GET /info: of the first model. What this server has no limit for is as large as its queue, in tokens."""
    model = service.model()
    facts, source, queue = model.facts, model.model.manifest.source, model.model.queue_tokens
    request.trace.facts = facts
    return Answer.of_json(
        {
            "model_id": facts.source or facts.name,
            "model_sha": source.revision,
            "model_dtype": _DTYPES.get(facts.dtype, facts.dtype),
            "served_model_name": facts.name,
            "model_type": _model_type(facts),
            "max_concurrent_requests": queue,
            "max_input_length": facts.max_length,
            "max_batch_tokens": queue,
            "max_batch_requests": None,
            "max_client_batch_size": queue,
            "auto_truncate": False,
            "tokenization_workers": THREADS,
            "version": __version__,
            "sha": None,
            "docker_label": None,
        }
    )


def error_body(problem: Problem, status: int) -> object:
    """{"error", "error_type"}; an empty body without a key."""
    if problem.kind == "unauthorized":
        return None
    return {"error": problem.message, "error_type": _TYPES.get(problem.kind, "Validation")}


def _records(given: Any) -> tuple[list[dict[str, Any]], bool]:
    """The records of `inputs`, and whether it is a batch."""
    if isinstance(given, list) and given and all(isinstance(item, list) for item in given):
        return [_record(item, f"inputs[{index}]") for index, item in enumerate(given)], True
    return [_record([given] if isinstance(given, str) else given, "inputs")], False


def _record(given: Any, name: str) -> dict[str, Any]:
    if isinstance(given, list) and all(isinstance(text, str) for text in given):
        if len(given) == 1:
            return {"text": given[0]}
        if len(given) == 2:
            return {"query": given[0], "document": given[1]}
    raise wrong(name, given, _INPUTS if name == "inputs" else "a list of one text, or of a pair of texts")


def _options(fields: Fields) -> ScoreOptions:
    side: Any = fields.choice("truncation_direction", ("left", "right", "Left", "Right"), "right").lower()
    return ScoreOptions(truncate=side if fields.flag("truncate") else None)


def _activation(fields: Fields) -> bool | None:
    raw = fields.flag("raw_scores")
    return None if raw is None else not raw


def _labels(score: Score, facts: ModelFacts, activation: bool | None) -> list[dict[str, Any]]:
    values = label_values(score, facts, activation)
    pairs = zip(values, _names(facts), strict=True)
    return [{"score": value, "label": label} for value, label in sorted(pairs, key=lambda pair: -pair[0])]


def _names(facts: ModelFacts) -> Sequence[str]:
    return facts.labels if facts.num_labels > 1 else ("LABEL_0",)


def _model_type(facts: ModelFacts) -> dict[str, Any]:
    """As TEI has it, a model with one label is a reranker, one with several a classifier."""
    by_id = {str(index): label for index, label in enumerate(_names(facts))}
    kind = "classifier" if len(by_id) > 1 else "reranker"
    return {kind: {"id2label": by_id, "label2id": {label: int(index) for index, label in by_id.items()}}}


PROTOCOL = Protocol(
    name="tei",
    routes=(
        Route("POST", "/predict", predict),
        Route("POST", "/rerank", rerank, accepts=has_any("texts")),
        Route("GET", "/info", info, body="none"),
    ),
    error_body=error_body,
    statuses=_STATUSES,
)
