"""Qwen2.5-VL, text only, in every engine: compared with the whole model, which sees nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from family_checkpoints import check_parity_gate, check_scores, family_checkpoint
from rmexport import CheckpointError
from rmexport.checkpoint.derived_tensors import rename
from rmexport.families import family_of
from tiny_checkpoints import TinyCheckpoint
from tiny_tokenizer import build_tokenizer

TEXT: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]},
}
VISION: dict[str, Any] = {
    "depth": 1,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_heads": 2,
    "out_hidden_size": 64,
    "patch_size": 4,
    "fullatt_block_indexes": [0],
}


def seeing(folder: Path) -> TinyCheckpoint:
    tokenizer = build_tokenizer(folder)
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    text = TEXT | ids | {"vocab_size": tokenizer.vocab_size}
    return family_checkpoint(folder, "qwen2_5_vl", {"text_config": text, "vision_config": VISION})


def test_scores(tmp_path: Path) -> None:
    checkpoint = seeing(tmp_path / "c")
    assert any("visual" in name for name in load_file(checkpoint.folder / "model.safetensors"))
    check_scores(checkpoint, tmp_path / "b")


@pytest.mark.ladder
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_parity_gate(tmp_path: Path, dtype: str) -> None:
    check_parity_gate(seeing(tmp_path / "c"), tmp_path / "b", dtype)


def test_the_text_alone() -> None:
    """As transformers' class of the text saves it."""
    text = TEXT | {"vocab_size": 100}
    whole = {"model_type": "qwen2_5_vl", "text_config": text, "vision_config": VISION}
    alone = {"model_type": "qwen2_5_vl_text", **text}
    assert family_of(alone).read_config(alone) == family_of(whole).read_config(whole)


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


def test_without_a_text_config() -> None:
    raw = {"model_type": "qwen2_5_vl", "text_config": None, "vision_config": VISION}
    with pytest.raises(CheckpointError, match="text_config is None"):
        family_of(raw).read_config(raw)
