"""Names for a head's outputs, from wherever a checkpoint may state them."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rmexport.errors import CheckpointError

CONFIG_LISTS = ("objective_names", "objectives", "attributes", "reward_names")


def label_names(config: Mapping[str, Any], count: int, *, stem: str, published: Sequence[str] = ()) -> tuple[str, ...]:
    """`count` names: a config list of exactly that length, the published ones, id2label, else `stem_N`.

    id2label counts only where it covers every index and is not transformers' own LABEL_N filler. Raises
    CheckpointError when names repeat.
    """
    candidates = [config.get(key) for key in CONFIG_LISTS] + [list(published), _id2label(config)]
    names = next((tuple(map(str, c)) for c in candidates if isinstance(c, list) and len(c) == count), None)
    names = names or tuple(f"{stem}_{i}" for i in range(count))
    if len(set(names)) != count:
        raise CheckpointError(f"config.json names outputs twice: {', '.join(names)}; each needs a name of its own")
    return names


def _id2label(config: Mapping[str, Any]) -> list[str] | None:
    raw = config.get("id2label")
    if not isinstance(raw, Mapping):
        return None
    by_index = {str(key): str(value) for key, value in raw.items()}
    names = [by_index.get(str(i), "") for i in range(len(by_index))]
    filler = all(re.fullmatch(r"LABEL_\d+", name) for name in names)
    return None if filler or not all(names) else names
