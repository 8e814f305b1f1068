"""Every peer module keeps the contract, and those whose engine the tests have score as transformers does."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rmexport import export
from rmexport.bench.peers import peers
from rmexport.bench.worker.scorer import LoadOptions, Request
from tiny_checkpoints import TinyCheckpoint, sequence_classifier

NAMES = (
    "bundle", "optimum-intel", "optimum-onnx", "transformers", "transformers-compile", "transformers-kv", "vllm",
    "vllm-serve",
)  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyCheckpoint]:
    yield sequence_classifier(tmp_path_factory.mktemp("peers") / "c")


def requests() -> list[Request]:
    """Two groups over a prefix worth caching, one over a short one, and lone sequences."""
    rng = np.random.default_rng(0)

    def ids(count: int) -> list[int]:
        return [int(i) for i in rng.integers(5, 60, count)]

    groups = [[[*prompt, *ids(n)] for n in (9, 3, 17)] for prompt in (ids(40), ids(25), ids(4))]
    groups += [[ids(12)], [ids(33)]]
    return [Request(group, [{"input_ids": sequence} for sequence in group]) for group in groups]


def expected(checkpoint: TinyCheckpoint) -> list[float]:
    """One sequence at a time, no padding."""
    with torch.no_grad():
        return [
            checkpoint.model(torch.tensor([ids])).logits.item() for request in requests() for ids in request.sequences
        ]


def test_every_peer_is_found_and_keeps_the_contract() -> None:
    assert tuple(sorted(peers())) == NAMES
    for name, module in peers().items():
        assert module.NAME == name and module.PACKAGES and module.DISTRIBUTIONS and module.DTYPES and module.__doc__


@pytest.mark.parametrize("name", ["transformers", "transformers-kv"])
@pytest.mark.parametrize("batch", [2, 8])
def test_scores_are_those_of_transformers(checkpoint: TinyCheckpoint, name: str, batch: int) -> None:
    scorer = peers()[name].load(str(checkpoint.folder), "fp32", 0, LoadOptions(batch=batch))
    asked = requests()
    for _ in range(2):  # a cache of the first pass must not show in the second
        scores = scorer.score(asked)
        assert scores.values == pytest.approx(expected(checkpoint), abs=1e-5)
    given = sum(request.tokens for request in asked)
    assert scores.computed is not None and (scores.computed < given) == (name == "transformers-kv")
    assert [scorer.weight(request) for request in asked] == [3, 3, 3, 1, 1]


def test_a_checkpoint_without_a_pad_token(tmp_path: Path) -> None:
    checkpoint = sequence_classifier(tmp_path / "c", pad=False)
    for name in ("transformers", "transformers-kv"):
        scorer = peers()[name].load(str(checkpoint.folder), "fp32", 0, LoadOptions(batch=4, spare_id=0))
        assert scorer.score(requests()).values == pytest.approx(expected(checkpoint), abs=1e-5)


def test_a_bundle_scores_the_same(checkpoint: TinyCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rmruntime.batching import runner, scoring_loop

    for module, name in ((runner, "pack"), (scoring_loop, "plan_batches")):
        monkeypatch.setattr(module, name, getattr(module, name))  # the peer puts timers there: undone afterwards
    export(str(checkpoint.folder), tmp_path / "b")
    scorer: Any = peers()["bundle"].load(str(tmp_path / "b"), "auto", 0, LoadOptions(device="ort-cpu"))
    scores = scorer.score(requests())
    assert scores.values == pytest.approx(expected(checkpoint), abs=1e-4)
    assert scores.computed < sum(request.tokens for request in requests())
    assert scorer.settings.startswith("ort-cpu, because it was asked for by name; at most ")
    assert set(scores.split) == {"template", "tokenize", "plan", "engine", "output"} and scores.split["engine"] > 0
