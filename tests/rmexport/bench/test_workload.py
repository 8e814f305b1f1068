"""What the report says of a workload: sizes, sharing, the histogram; and what makes it no workload."""

from pathlib import Path

import numpy as np
import pytest

from rmexport import export
from rmexport.bench.options import BenchOptions
from rmexport.bench.workload import describe, distinct_tokens, length_histogram, make_workload
from rmexport.errors import OptionError
from rmruntime import InputError
from rmruntime.batching.trie import build_trie
from rmruntime.bundle import Bundle
from tiny_checkpoints import sequence_classifier


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("workload")
    export(str(sequence_classifier(folder / "c").folder), folder / "b")
    return Bundle.open(folder / "b")


@pytest.mark.parametrize("lengths", [[7], [5, 5, 5], [1, 2, 3, 400], list(range(10, 500, 7))])
def test_histogram_counts_every_length_once(lengths: list[int]) -> None:
    found = length_histogram(lengths)
    edges, counts = found["edges"], found["counts"]
    assert sum(counts) == len(lengths) and len(edges) == len(counts) + 1
    assert edges == sorted(set(edges)) and all(isinstance(edge, int) for edge in edges)
    for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
        assert sum(low <= n < high for n in lengths) == count
    assert (found["min"], found["max"]) == (min(lengths), max(lengths))
    assert found["mean"] == pytest.approx(sum(lengths) / len(lengths)) and found["p50"] == np.median(lengths)


def test_distinct_tokens_are_the_nodes_of_the_trie() -> None:
    rng = np.random.default_rng(0)
    sequences = [tuple(rng.integers(0, 3, rng.integers(1, 9)).tolist()) for _ in range(40)]
    assert distinct_tokens(sequences) == build_trie([np.array(ids) for ids in sequences]).tokens


def test_description(bundle: Bundle) -> None:
    workload = make_workload(bundle, BenchOptions(profile="tree", seed=3))
    found = describe(workload)
    assert (found["name"], found["kind"], found["seed"]) == ("tree", "profile", 3)
    assert (found["requests"], found["records"], found["sequences"], found["tokens"]) == (3, 15, 15, 15 * 324)
    # Answers may begin with the same random token, hence no equality.
    assert 0 <= 200 + 3 * 60 + 15 * 64 - found["distinct_tokens"] <= 15
    assert found["shared_share"] == pytest.approx(1 - found["distinct_tokens"] / found["tokens"])
    assert found["sha256"] == describe(workload)["sha256"] != describe(make_workload(bundle, BenchOptions()))["sha256"]


def test_an_empty_file_is_an_error(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(OptionError, match=r"empty\.jsonl is empty"):
        make_workload(bundle, BenchOptions(workload=tmp_path / "empty.jsonl"))


def test_a_bad_record_is_named(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"text": "fine"}\n{"txt": "not"}\n')
    with pytest.raises(InputError, match="line 2"):
        make_workload(bundle, BenchOptions(workload=tmp_path / "bad.jsonl"))
