"""Which keys of a record are read, and which of the others are too similar to one of them to be ignored."""

from functools import lru_cache

from rmruntime.errors import RecordError
from rmruntime.records.published_records import PUBLISHED_KEYS

# What users type. "id" is too short for a near miss to mean anything: data sets have idx, uid and the like.
PLAIN_KEYS = frozenset(
    {"messages", "prompt", "response", "responses", "chosen", "rejected", "steps", "text", "input_ids"}
)
# Records of a query and its documents; without both they are columns like any other.
QUERY_KEYS = frozenset({"query", "document", "documents", "instruction"})
KNOWN_KEYS = PLAIN_KEYS | PUBLISHED_KEYS | QUERY_KEYS | {"id"}
# Columns that are ignored without a search for a near miss.
IGNORED_KEYS = frozenset(
    {"category", "dataset", "expected", "language", "metadata", "prompt_id", "score_chosen", "score_rejected", "source"}
    | {"split", "subset", "tags", "url"}
)
EDITS = 2  # letters left out, added, changed, or two neighbours swapped


def check_key(key: str, known: frozenset[str] = PLAIN_KEYS) -> None:
    """Raises RecordError for a key that is not Unicode text, or that looks like a mistyped key of `known`.

    >>> check_key("promt")
    Traceback (most recent call last):
    rmruntime.errors.RecordError: the record: found the unknown key 'promt'; did you mean prompt?
    """
    if near := near_miss(key, known):
        raise RecordError(f"the record: found the unknown key {key!r}; did you mean {near}?")
    try:
        key.encode()
    except UnicodeEncodeError as error:
        raise RecordError(f"the record: found the key {key!a}, expected Unicode text; repair its escapes") from error


@lru_cache(maxsize=4096)
def near_miss(key: str, known: frozenset[str] = PLAIN_KEYS) -> str | None:
    """The key of `known` that `key` probably misspells, else None: at most two edits away, upper and lower case alike.

    Short keys may differ by one edit only, so that `set` is not taken for `text`. A known key joined with another word,
    such as `chosen_model`, is a key of its own.

    >>> near_miss("respons"), near_miss("chosen_model")
    ('response', None)
    """
    if key in KNOWN_KEYS or key in IGNORED_KEYS:
        return None
    distances = {name: _distance(key.lower(), name) for name in known}
    found = [(edits, name) for name, edits in distances.items() if edits <= min(EDITS, len(name) // 3)]
    return min(found)[1] if found and not any(_adds_a_word(key.lower(), name) for name in known) else None


def _adds_a_word(key: str, known: str) -> bool:
    before, _, after = key.partition(known)
    joined = (before == "" or before[-1] in "_-") and (after == "" or after[0] in "_-")
    return known in key and joined and len(before) != 1 and len(after) != 1 and before + after != ""


def _distance(a: str, b: str) -> int:
    """Optimal string alignment distance; EDITS + 1, without computing it, where the lengths alone differ by more."""
    if abs(len(a) - len(b)) > EDITS:
        return EDITS + 1
    before, row = [0] * (len(b) + 1), list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        earlier, before, row = before, row, [i]
        for j, other in enumerate(b, 1):
            row.append(min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != other)))
            if i > 1 and j > 1 and letter == b[j - 2] and a[i - 2] == other:
                row[j] = min(row[j], earlier[j - 2] + 1)
    return row[-1]
