"""What vLLM's requests ask for: conversations, texts, pairs of texts, and the options of their common fields."""

from collections.abc import Mapping, Sequence
from typing import Any

from rmruntime.options import ScoreOptions
from rmruntime.serve.fields import Fields, wrong
from rmruntime.serve.openai_input import input_records
from rmruntime.serve.served_model import ServedModel

PAIRS = (("queries", "documents"), ("queries", "items"), ("data_1", "data_2"), ("text_1", "text_2"))
# What vLLM offers for other models, or at its operator's wish, and this server cannot do: better refused than ignored.
_REFUSED: Mapping[str, str] = {
    "chat_template": "none: the bundle's own template is used",
    "dimensions": "none: scores have no dimensions to cut",
    "normalize": "none; use_activation says whether scores are activated",
    "add_generation_prompt": "false: conversations are scored as they are",
    "continue_final_message": "false: conversations are scored as they are",
    "priority": "0: requests are answered in the order in which they come",
    "chat_template_kwargs": "none: the bundle's template is used as the model was trained",
    "max_tokens_per_query": "0: whole texts are scored; truncate_prompt_tokens cuts the whole",
    "max_tokens_per_doc": "0: whole texts are scored; truncate_prompt_tokens cuts the whole",
}


def options_of(fields: Fields, model: ServedModel) -> ScoreOptions:
    """The scoring options of the common fields. Raises Refused for a field that asks for what is not offered."""
    fields.refuse(_REFUSED)
    if fields.value("cache_salt") and model.model.has_prefix_cache:
        raise wrong("cache_salt", fields.value("cache_salt"), "none: the prefix cache is shared by all callers")
    side: Any = fields.choice("truncation_side", ("left", "right"), "right")
    limit = fields.integer("truncate_prompt_tokens", least=-1)
    if limit is None:
        return ScoreOptions()
    longest = model.facts.max_length
    if limit == 0 or limit > longest:
        raise wrong("truncate_prompt_tokens", limit, f"-1 for the model's length, or 1 to {longest}")
    return ScoreOptions(truncate=side, max_length=longest if limit == -1 else limit)


def activation_of(fields: Fields) -> bool | None:
    """Whether scores are to be activated; None where the request says nothing. `activation` is the older name."""
    found = fields.flag("use_activation")
    return fields.flag("activation") if found is None else found


def records_of(fields: Fields) -> list[dict[str, Any]]:
    """The records of `input` or `messages`; several conversations in `messages` are taken too, which vLLM does not."""
    if "messages" in fields:
        messages = fields.items("messages", "a list of messages")
        several = messages and all(isinstance(item, list) for item in messages)
        return [{"messages": item} for item in (messages if several else [messages])]
    return input_records(fields, "; or messages")


def pair_records(fields: Fields) -> list[dict[str, Any]]:
    """The records of a `/score` request: one query and its documents, or as many queries as documents."""
    left, right = next((pair for pair in PAIRS if pair[0] in fields and pair[1] in fields), PAIRS[0])
    queries, documents = (_texts(fields, name) for name in (left, right))
    instruction = _instruction(fields)
    if len(queries) == 1:
        return [{"query": queries[0], "documents": documents, **instruction}]
    if len(queries) != len(documents):
        raise wrong(right, f"{len(documents)} texts for {len(queries)} in {left}", "as many, or one of these alone")
    return [
        {"query": query, "document": document, **instruction}
        for query, document in zip(queries, documents, strict=True)
    ]


def rank_record(fields: Fields) -> dict[str, Any]:
    """The record of a `/rerank` request."""
    query = text_of("query", fields.required("query", "a text"))
    return {"query": query, "documents": _texts(fields, "documents"), **_instruction(fields)}


def text_of(name: str, found: Any) -> str:
    """A text, as it is, as {"text": ...}, or as {"content": [text parts]}.

    >>> text_of("query", {"content": [{"type": "text", "text": "2 + "}, {"type": "text", "text": "2?"}]})
    '2 + 2?'
    """
    if isinstance(found, Mapping):
        found = found.get("text", found.get("content"))
    if isinstance(found, list) and all(_is_text_part(part) for part in found):
        found = "".join(part["text"] for part in found)
    if not isinstance(found, str):
        raise wrong(name, found, "a text, or an object with its text; images and sounds cannot be scored")
    return found


def _is_text_part(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)


def _texts(fields: Fields, name: str) -> Sequence[str]:
    given = fields.required(name, "a text or a list of texts")
    items = given if isinstance(given, list) else [given]
    if not items:
        raise wrong(name, items, "at least one text")
    return [text_of(f"{name}[{index}]", item) for index, item in enumerate(items)]


def _instruction(fields: Fields) -> dict[str, str]:
    found = fields.optional_text("instruction")
    return {"instruction": found} if found else {}
