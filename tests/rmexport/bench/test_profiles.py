"""Profiles: seeded, of the stated lengths and sharing, and such that the bundle's head can score them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rmexport import export
from rmexport.bench.options import BenchOptions
from rmexport.bench.profiles import PROFILES
from rmexport.bench.token_source import TokenSource, patterns_of, plain_ids
from rmexport.bench.workload import make_workload
from rmexport.errors import OptionError
from rmruntime.bundle import Bundle
from tiny_checkpoints import TinyShape, gated, sequence_classifier


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A classifier with room for every profile."""
    folder = tmp_path_factory.mktemp("profiles")
    export(str(sequence_classifier(folder / "c", TinyShape(max_position_embeddings=2048)).folder), folder / "b")
    return Bundle.open(folder / "b")


@pytest.fixture(scope="module")
def gated_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """ArmoRM's gate, and a limit of 512 tokens."""
    folder = tmp_path_factory.mktemp("gated")
    export(str(gated(folder / "c").folder), folder / "b")
    return Bundle.open(folder / "b")


def shapes(bundle: Bundle, name: str) -> list[list[int]]:
    workload = make_workload(bundle, BenchOptions(profile=name))
    return [[len(ids) for ids in asked.sequences] for asked in workload.requests]


def test_lengths_are_those_of_the_profile(bundle: Bundle) -> None:
    assert shapes(bundle, "ragged") == [[256], [200], [130], [64]]
    assert shapes(bundle, "best-of-8") == [[576] * 8]
    assert shapes(bundle, "tree") == [[324] * 5] * 3
    assert {tuple(s) for s in shapes(bundle, "single")} == {(64,)}
    pairs = shapes(bundle, "pairs")
    assert len(pairs) == 64 and all(len(p) == 2 and 60 <= min(p) and max(p) <= 700 for p in pairs)


def test_prompts_are_shared_and_answers_are_not(bundle: Bundle) -> None:
    requests = make_workload(bundle, BenchOptions(profile="tree")).requests
    first, second = requests[0].sequences, requests[1].sequences
    assert len({ids[:260] for ids in first}) == 1 and len({ids[260:] for ids in first}) == 5
    assert first[0][:200] == second[0][:200] and first[0][200:260] != second[0][200:260]


@pytest.mark.parametrize("name", PROFILES)
def test_the_same_seed_gives_the_same_ids(bundle: Bundle, name: str) -> None:
    one, again, other = (make_workload(bundle, BenchOptions(profile=name, seed=s)) for s in (1, 1, 2))
    assert one.requests == again.requests != other.requests


def test_ids_are_ordinary_tokens(bundle: Bundle) -> None:
    allowed = set(plain_ids(bundle.manifest, bundle.folder))
    workload = make_workload(bundle, BenchOptions(profile="mixed"))
    assert {i for ids in workload.sequences for i in ids} <= allowed
    pad_id = bundle.manifest.positions["score"].pad_id
    assert pad_id is not None and pad_id not in allowed and len(allowed) > 10


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_suits_a_gated_head_and_its_limit(gated_bundle: Bundle, name: str) -> None:
    """make_workload encodes: the head's pattern is found in every conversation."""
    workload = make_workload(gated_bundle, BenchOptions(profile=name))
    assert max(map(len, workload.sequences)) <= 512
    pattern = patterns_of(gated_bundle.manifest).prompt
    assert len(pattern) > 1
    for ids in workload.sequences:
        places = [i for i in range(len(ids)) if ids[i : i + len(pattern)] == pattern]
        assert len(places) == 1 and 0 < places[0] < len(ids) - len(pattern)


def test_a_limit_too_low_for_any_conversation_is_an_error(gated_bundle: Bundle) -> None:
    manifest = replace(gated_bundle.manifest, backbone=replace(gated_bundle.manifest.backbone, max_length=3))
    rng = np.random.default_rng(0)
    with pytest.raises(OptionError, match="takes 3 tokens"):
        TokenSource(manifest, gated_bundle.folder, rng).conversations(PROFILES["single"].drafts(rng))


def test_pairs_know_their_places(bundle: Bundle) -> None:
    assert make_workload(bundle, BenchOptions(profile="pairs")).pairs[:2] == [(0, 1), (2, 3)]
    assert make_workload(bundle, BenchOptions(profile="best-of-8")).pairs == []


def test_a_file_gives_a_request_a_record(bundle: Bundle, tmp_path: Path) -> None:
    source = tmp_path / "records.jsonl"
    source.write_text(
        '{"prompt": "a", "response": "b"}\n'
        '{"prompt": "a", "chosen": "good", "rejected": "bad"}\n'
        '{"prompt": "a", "responses": ["x", "y", "z"]}\n{"text": "raw text"}\n{"input_ids": [5, 6]}\n'
        '{"prompt": "a", "steps": ["one", "two"]}\n{"query": "a", "documents": ["b", {"text": "c"}]}\n'
    )
    workload = make_workload(bundle, BenchOptions(workload=source))
    assert [len(asked.sequences) for asked in workload.requests] == [1, 2, 3, 1, 1, 2, 2]
    assert workload.pairs == [(1, 2)] and workload.kind == "file" and workload.seed is None
