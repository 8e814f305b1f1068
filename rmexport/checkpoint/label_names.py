"""Finds names for a head's outputs in the places where a checkpoint may have them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rmexport.checkpoint.config_fields import section, shown
from rmexport.errors import CheckpointError

CONFIG_LISTS = ("objective_names", "objectives", "attributes", "reward_names")
_OTHER_USES = ("objectives", "attributes")  # keys that may hold other things than names


def label_names(
    config: Mapping[str, Any], count: int, *, stem: str, stated: Sequence[str] = (), published: Sequence[str] = ()
) -> tuple[str, ...]:
    """Names of `count` outputs: from a list in config.json, the recipe (`stated`), `published`, id2label, or `stem_N`.

    `published` is used only where it has `count` names, and id2label where it is not transformers' default LABEL_N.
    Raises CheckpointError where the names are not `count` texts, all different.

    >>> label_names({}, 2, stem="score")
    ('score_0', 'score_1')
    >>> label_names({"id2label": {"0": "helpfulness", "1": "correctness"}}, 2, stem="score")
    ('helpfulness', 'correctness')
    """
    where, names = next(_candidates(config, count, stated, published), ("", [f"{stem}_{i}" for i in range(count)]))
    if len(names) != count:
        raise CheckpointError(
            f"{where} has {len(names)} names ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''}) and the "
            f"weights have {count} outputs; give each output one name, or remove the names"
        )
    if len(set(names)) != count or not all(names):
        raise CheckpointError(
            f"{where} names outputs twice, or not at all: {', '.join(names)}; each needs a name of its own"
        )
    return tuple(names)


def _candidates(
    config: Mapping[str, Any], count: int, stated: Sequence[str], published: Sequence[str]
) -> Iterator[tuple[str, list[str]]]:
    """The places that have names, each with its names, the preferred first."""
    for key in CONFIG_LISTS:
        names = config.get(key)
        if names is None or (key in _OTHER_USES and not (isinstance(names, list) and names)):
            continue
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise CheckpointError(
                f"config.json: {key} is {shown(names)}, expected a list of names; correct or remove it"
            )
        yield f"config.json: {key}", names
    if stated:
        yield "the recipe: objectives", list(stated)
    if len(published) == count:
        yield "the published list", list(published)
    if names := _id2label(config):
        yield "config.json: id2label", names


def _id2label(config: Mapping[str, Any]) -> list[str]:
    """The names in order; [] for transformers' default LABEL_N. Raises CheckpointError for missing indices."""
    by_index = section(config, "id2label")
    if any(not isinstance(name, str | int) or isinstance(name, bool) for name in by_index.values()):
        raise CheckpointError(
            f"config.json: id2label is {shown(by_index)}, expected names by index; correct or remove it"
        )
    names = {str(index): str(name) for index, name in by_index.items()}
    if all(re.fullmatch(r"LABEL_\d+", name) for name in names.values()):
        return []
    if set(names) != set(map(str, range(len(names)))):
        raise CheckpointError(
            f"config.json: id2label has the indices {', '.join(names)}, expected 0 to {len(names) - 1}, one per output"
        )
    return [names[str(i)] for i in range(len(names))]
