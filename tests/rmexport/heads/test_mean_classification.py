"""Classifiers on the mean of hidden states: a mean of values equals the value of the mean."""

from pathlib import Path
from typing import Any

import pytest
import torch

from reward_trunks import HIDDEN, normal, reward_trunk, spec_of
from rmexport import export
from rmexport.errors import CheckpointError, UnsupportedModel
from tiny_checkpoints import TinyCheckpoint


def checkpoint_in(folder: Path, rows: int = 1, **config: Any) -> TinyCheckpoint:
    own = {"architectures": ["LlamaBidirectionalForSequenceClassification"], "model_type": "llama_bidirec"}
    return reward_trunk(folder, {"score.weight": normal(rows, HIDDEN, seed=3)}, own | config)


def test_found_by_class_and_tensor(tmp_path: Path) -> None:
    spec = spec_of(checkpoint_in(tmp_path / "checkpoint"))
    assert (spec.head_name, spec.positions["score"].rule, spec.outputs[0].mean) == (
        "mean_classification",
        "every",
        True,
    )
    assert spec.recipe is not None and spec.recipe.name == "llama-nemotron-rerank"


def test_the_mean_of_the_reference_is_the_published_value(tmp_path: Path) -> None:
    spec = spec_of(checkpoint_in(tmp_path / "checkpoint", temperature=0.5))
    states, weight = torch.randn(9, HIDDEN, generator=torch.Generator().manual_seed(1)), normal(1, HIDDEN, seed=3)
    found = spec.head.reference({"score": states}, {"score.weight": weight})["score"]
    assert found.mean().item() == pytest.approx((states.mean(dim=0) @ weight.T / 0.5).item(), abs=1e-5)


def test_other_poolings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="pooling is 'cls', of which 'avg' alone"):
        export(str(checkpoint_in(tmp_path / "checkpoint", pooling="cls").folder), tmp_path / "bundle")


def test_several_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"score\.weight has 2 rows, expected the one of a reranker"):
        export(str(checkpoint_in(tmp_path / "checkpoint", rows=2).folder), tmp_path / "bundle")
