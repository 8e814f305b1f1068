"""Qwen3-VL, text only, in every engine: compared with the whole model, which sees nothing."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

import seeing_checkpoints
from family_checkpoints import check_parity_gate, check_scores
from seeing_checkpoints import check_the_text_alone, seeing_checkpoint
from tiny_checkpoints import TinyCheckpoint

TEXT = {**seeing_checkpoints.TEXT, "head_dim": 16}
VISION = {**seeing_checkpoints.VISION, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]}


def seeing(folder: Path) -> TinyCheckpoint:
    return seeing_checkpoint(folder, "qwen3_vl", TEXT, VISION)


def test_scores(tmp_path: Path) -> None:
    checkpoint = seeing(tmp_path / "c")
    assert any("visual" in name for name in load_file(checkpoint.folder / "model.safetensors"))
    check_scores(checkpoint, tmp_path / "b")


@pytest.mark.ladder
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_parity_gate(tmp_path: Path, dtype: str) -> None:
    check_parity_gate(seeing(tmp_path / "c"), tmp_path / "b", dtype)


def test_the_text_alone() -> None:
    check_the_text_alone("qwen3_vl", TEXT, VISION)
