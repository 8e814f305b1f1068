"""`score.0` and `score.2` with one output: INF-ORM, Qwen2.5-Math-RM and WorldPM."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from rmexport.errors import CheckpointError, UnsupportedModel
from rmruntime.bundle.manifest import PositionRule

Tensors = Mapping[str, torch.Tensor]
INF_ORM = {"architectures": ["INFORMForSequenceClassification"]}
QWEN_RM = {"architectures": ["Qwen2ForRewardModel"]}


def head_tensors(linear: Any, rows: int = 1) -> dict[str, torch.Tensor]:
    return {**linear("score.0", 64, 64, 0), **linear("score.2", rows, 64, 1)}


def published(read: Tensors, w: Tensors) -> dict[str, torch.Tensor]:
    inner = torch.relu(torch.nn.functional.linear(read["score"], w["score.0.weight"], w["score.0.bias"]))
    return {"score": torch.nn.functional.linear(inner, w["score.2.weight"], w["score.2.bias"])[0]}


@pytest.mark.parametrize("config", [INF_ORM, QWEN_RM], ids=["inf_orm", "qwen_rm"])
def test_scores_follow_the_published_forward(tmp_path: Path, headed: Any, linear: Any, qwen2: Any, config: Any) -> None:
    usual = {"trunk": qwen2, "beside": {"lm_head.weight": torch.zeros(8, 64)}} if config is QWEN_RM else {}
    checkpoint = headed(tmp_path / "checkpoint", head_tensors(linear), config, **usual)
    checkpoint.assert_scores_follow(tmp_path / "bundle", lambda ids: {"score": len(ids) - 1}, published)


def test_where_each_class_reads(tmp_path: Path, headed: Any, linear: Any) -> None:
    """INF-ORM takes the token before the first pad id, wherever that is; Qwen's the last one."""
    inf_orm = headed(tmp_path / "a", head_tensors(linear), INF_ORM)
    pad_id = inf_orm.checkpoint.tokenizer.pad_id
    assert inf_orm.spec().head.positions["score"] == PositionRule(rule="before_first_pad", pad_id=pad_id)
    qwen_rm = headed(tmp_path / "b", head_tensors(linear), QWEN_RM)
    assert qwen_rm.spec().head.positions["score"] == PositionRule(rule="last")


def test_pad_is_eot_cuts_inf_orm_at_the_first_turn(tmp_path: Path, headed: Any, linear: Any) -> None:
    """Its argmax over `ids == pad` finds the pad id in the text where the two are the same token."""
    checkpoint = headed(tmp_path / "checkpoint", head_tensors(linear), INF_ORM)
    eot = checkpoint.checkpoint.tokenizer.eot_id
    config = checkpoint.folder / "config.json"
    pad = f'"pad_token_id": {checkpoint.checkpoint.tokenizer.pad_id}'
    assert pad in config.read_text()
    config.write_text(config.read_text().replace(pad, f'"pad_token_id": {eot}'))
    checkpoint.assert_scores_follow(tmp_path / "bundle", lambda ids: {"score": ids.index(eot) - 1}, published)


def test_other_numbers_of_rows_are_no_known_head(tmp_path: Path, headed: Any, linear: Any) -> None:
    checkpoint = headed(tmp_path / "c", head_tensors(linear, rows=3), QWEN_RM)
    with pytest.raises(UnsupportedModel, match=r"Qwen2ForRewardModel.*score\.2\.weight"):
        checkpoint.spec()


def test_a_bias_that_only_one_layer_has_is_a_broken_download(tmp_path: Path, headed: Any, linear: Any) -> None:
    tensors = {name: tensor for name, tensor in head_tensors(linear).items() if name != "score.0.bias"}
    with pytest.raises(CheckpointError, match=r"score\.0\.bias missing"):
        headed(tmp_path / "c", tensors, QWEN_RM).spec()


@pytest.mark.ladder
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_passes_the_parity_gate(tmp_path: Path, headed: Any, linear: Any, dtype: str) -> None:
    checkpoint = headed(tmp_path / "checkpoint", head_tensors(linear), INF_ORM)
    checkpoint.assert_gate_passes(tmp_path / "bundle", dtype)
