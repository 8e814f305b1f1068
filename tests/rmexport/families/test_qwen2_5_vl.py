"""Qwen2.5-VL, text only, in every engine: compared with the whole model, which sees nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import seeing_checkpoints
from family_checkpoints import check_parity_gate, check_scores
from rmexport.checkpoint.derived_tensors import rename
from seeing_checkpoints import check_the_text_alone, seeing_checkpoint
from tiny_checkpoints import TinyCheckpoint

TEXT = seeing_checkpoints.TEXT
VISION = {**seeing_checkpoints.VISION, "fullatt_block_indexes": [0]}


def seeing(folder: Path) -> TinyCheckpoint:
    return seeing_checkpoint(folder, "qwen2_5_vl", TEXT, VISION)


def test_scores(tmp_path: Path) -> None:
    checkpoint = seeing(tmp_path / "c")
    assert any("visual" in name for name in load_file(checkpoint.folder / "model.safetensors"))
    check_scores(checkpoint, tmp_path / "b")


@pytest.mark.ladder
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_parity_gate(tmp_path: Path, dtype: str) -> None:
    check_parity_gate(seeing(tmp_path / "c"), tmp_path / "b", dtype)


def test_the_text_alone() -> None:
    check_the_text_alone("qwen2_5_vl", TEXT, VISION)


def published_spelling(raw: dict[str, Any]) -> dict[str, Any]:
    """The text's fields beside those of images, and the rope of text under its first name."""
    rope = {"type": "mrope", "mrope_section": [4, 2, 2]}
    text = {name: value for name, value in raw["text_config"].items() if name not in ("rope_parameters", "model_type")}
    return {**raw, **text, "rope_scaling": rope, "rope_theta": 1e4}


def test_published_spelling(tmp_path: Path) -> None:
    """Names as those releases have them, too."""
    checkpoint = seeing(tmp_path / "c")
    file, config = checkpoint.folder / "model.safetensors", checkpoint.folder / "config.json"
    raw = published_spelling(json.loads(config.read_text()))
    del raw["text_config"]
    config.write_text(json.dumps(raw))
    old = {"model.language_model.": "model.", "model.visual.": "visual."}
    save_file({rename(name, old): tensor for name, tensor in load_file(file).items()}, file)
    check_scores(checkpoint, tmp_path / "b")
