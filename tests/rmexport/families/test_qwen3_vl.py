"""Qwen3-VL, text only, in every engine: compared with the whole model, which sees nothing."""

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from family_checkpoints import check_parity_gate, check_scores, family_checkpoint
from rmexport import CheckpointError
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
    "head_dim": 16,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]},
}
VISION: dict[str, Any] = {
    "depth": 1,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_heads": 2,
    "out_hidden_size": 64,
    "patch_size": 4,
    "num_position_embeddings": 16,
    "deepstack_visual_indexes": [0],
}


def seeing(folder: Path) -> TinyCheckpoint:
    tokenizer = build_tokenizer(folder)
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    text = TEXT | ids | {"vocab_size": tokenizer.vocab_size}
    return family_checkpoint(folder, "qwen3_vl", {"text_config": text, "vision_config": VISION})


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
    whole = {"model_type": "qwen3_vl", "text_config": text, "vision_config": VISION}
    alone = {"model_type": "qwen3_vl_text", **text}
    assert family_of(alone).read_config(alone) == family_of(whole).read_config(whole)


def test_without_a_text_config() -> None:
    raw = {"model_type": "qwen3_vl", "text_config": None, "vision_config": VISION}
    with pytest.raises(CheckpointError, match="text_config is None"):
        family_of(raw).read_config(raw)
