"""Checkpoints of models that see images, whose text alone is scored, and what every such family must do."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from family_checkpoints import family_checkpoint
from rmexport import CheckpointError
from rmexport.families import family_of
from tiny_checkpoints import TinyCheckpoint
from tiny_tokenizer import build_tokenizer

Config = Mapping[str, Any]
TEXT: Config = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]},
}
VISION: Config = {
    "depth": 1,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_heads": 2,
    "out_hidden_size": 64,
    "patch_size": 4,
}


def seeing_checkpoint(folder: Path, model_type: str, text: Config, vision: Config) -> TinyCheckpoint:
    """A classifier that sees, with a tiny tokenizer."""
    tokenizer = build_tokenizer(folder)
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    own = {**text, **ids, "vocab_size": tokenizer.vocab_size}
    return family_checkpoint(folder, model_type, {"text_config": own, "vision_config": vision})


def check_the_text_alone(model_type: str, text: Config, vision: Config) -> None:
    """The text, as transformers' class of it saves it, is read as the whole is; a whole without it is refused."""
    own = {**text, "vocab_size": 100}
    whole = {"model_type": model_type, "text_config": own, "vision_config": vision}
    alone = {"model_type": f"{model_type}_text", **own}
    assert family_of(alone).read_config(alone) == family_of(whole).read_config(whole)
    with pytest.raises(CheckpointError, match="text_config is None"):
        family_of(whole).read_config({**whole, "text_config": None})
