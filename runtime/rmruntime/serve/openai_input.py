"""The field `input` of requests like OpenAI's: one text or several, the token ids of one or of several."""

from typing import Any

from rmruntime.serve.fields import Fields, wrong

_EXPECTED = "a text, a list of texts, token ids, or lists of them"


def input_records(fields: Fields, instead: str = "") -> list[dict[str, Any]]:
    """The records of `input`, at least one; `instead` names what else the request may have in its place.

    Texts are templated already. Raises Refused ("malformed").

    >>> input_records(Fields({"input": ["Hello", "What?"]}))
    [{'text': 'Hello'}, {'text': 'What?'}]
    >>> input_records(Fields({"input": [5, 6, 7]}))
    [{'input_ids': [5, 6, 7]}]
    >>> input_records(Fields({"input": [[5, 6], [7]]}))
    [{'input_ids': [5, 6]}, {'input_ids': [7]}]
    >>> input_records(Fields({"input": []}))
    Traceback (most recent call last):
    rmruntime.serve.problems.Refused: input: found [], expected a text, a list of texts, token ids, or lists of them
    """
    given = fields.required("input", f"a text, a list of texts, token ids or lists of them{instead}")
    if isinstance(given, str):
        return [{"text": given}]
    if not isinstance(given, list) or not given:
        raise wrong("input", given, _EXPECTED)
    if all(type(item) is int for item in given):
        return [{"input_ids": given}]
    return [_one(item, index) for index, item in enumerate(given)]


def _one(item: Any, index: int) -> dict[str, Any]:
    if isinstance(item, str):
        return {"text": item}
    if isinstance(item, list):
        return {"input_ids": item}
    raise wrong(f"input[{index}]", item, "a text or a list of token ids")
