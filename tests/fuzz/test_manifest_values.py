"""A manifest with any value changed, its digest computed anew, is refused or scores exactly the same."""

import copy
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmexport.options import ExportOptions
from rmruntime import RewardModel, RewardModelError
from seeded_fuzz import seeded
from tampered_bundles import RECORD, copied, manifest_of, small_bundle, write_manifest

NUMBERS = (-1, 0, 1, 2, 3, 7, 8, 16, 17, 32, 64, 100, 256, 4096, 10**6, 10**9, 2**31, 2**63, -(2**63), 10**30)
OTHERS = (
    None,
    True,
    False,
    "",
    "x",
    "score",
    "last",
    "step",
    "padded",
    "pages",
    "one",
    "\0",
    "../x",
    [],
    {},
    [1],
    0.5,
    1e308,
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("values")
    return copied(small_bundle(folder, layers=2, options=ExportOptions(stages=2)), folder / "bundle")


def scores(folder: Path) -> list[Any]:
    """Of several lengths, so that rows are packed in more than one way."""
    records = [RECORD, {**RECORD, "response": "word " * 150}, {"prompt": "a", "responses": ["b", "c " * 40]}]
    with RewardModel.load(folder, device="cpu") as model:
        return model.score(records)


@pytest.fixture(scope="module")
def expected(bundle: Path) -> list[Any]:
    return scores(bundle)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every value of the manifest stands; what says where the bundle came from and how big it is, aside."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        if not path and key in ("digest", "source", "notes", "options", "created_by"):
            continue
        yield (*path, key)
        yield from places(item, (*path, key))


@seeded(80)
@given(seed=st.integers(0, 2**32))
def test_manifest_values(bundle: Path, expected: list[Any], seed: int) -> None:
    rng = random.Random(seed)
    original = manifest_of(bundle)
    data = copy.deepcopy(original)
    found = list(places(data))
    for _ in range(rng.choice((1, 1, 1, 2))):
        *way, last = rng.choice(found)
        holder: Any = data
        try:
            for step in way:
                holder = holder[step]
            old = holder[last]
            numeric = isinstance(old, int) and not isinstance(old, bool)
            if rng.random() < 0.1:
                del holder[last]
            else:
                near = (old + 1, old - 1, old * 2, -old) if numeric else ()
                holder[last] = rng.choice((*near, *NUMBERS) if numeric and rng.random() < 0.8 else (*OTHERS, *NUMBERS))
        except (KeyError, IndexError, TypeError):
            continue  # the first change took it away
    try:
        write_manifest(bundle, data)
        assert scores(bundle) == expected
    except RewardModelError as error:
        assert str(error)
    finally:
        write_manifest(bundle, original)
