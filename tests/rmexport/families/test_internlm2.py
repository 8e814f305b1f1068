"""InternLM2 in every engine, against its published formula; by the parity gate against the Llama that it is."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from family_checkpoints import check_parity_gate, check_scores
from internlm2_model import Internlm2ForSequenceClassification, Internlm2Shape
from rmexport.errors import CheckpointError
from rmexport.families import family_of
from tiny_checkpoints import TinyCheckpoint, shaken
from tiny_tokenizer import build_tokenizer

SHAPE = Internlm2Shape(vocab_size=1)


def checkpoint(folder: Path, shape: Internlm2Shape) -> TinyCheckpoint:
    """In the published layout; the tokenizer says what vocab_size is."""
    tokenizer = build_tokenizer(folder)
    shape = replace(shape, vocab_size=tokenizer.vocab_size)
    model = shaken(Internlm2ForSequenceClassification(shape), torch.float32)
    save_file(model.state_dict(), folder / "model.safetensors")
    fields: dict[str, Any] = asdict(shape)
    factor = fields.pop("factor")
    scaling = None if factor is None else {"type": "dynamic", "factor": factor}
    ids = {"pad_token_id": tokenizer.pad_id, "bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
    raw = {"model_type": "internlm2", "architectures": ["InternLM2ForSequenceClassification"], "hidden_act": "silu"}
    labels = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "torch_dtype": "float32"}
    (folder / "config.json").write_text(json.dumps({**raw, **fields, **ids, **labels, "rope_scaling": scaling}))
    return TinyCheckpoint(folder, tokenizer, model)


def test_scores(tmp_path: Path) -> None:
    check_scores(checkpoint(tmp_path / "c", SHAPE), tmp_path / "b")


def test_biases_and_dynamic_rope_around_the_original_length(tmp_path: Path) -> None:
    """Three queries to a key, conversations shorter and longer than max_position_embeddings in one batch."""
    shape = replace(SHAPE, bias=True, factor=4.0, max_position_embeddings=96, num_attention_heads=6, hidden_size=96)
    check_scores(checkpoint(tmp_path / "c", shape), tmp_path / "b")


@pytest.mark.ladder
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_parity_gate(tmp_path: Path, dtype: str) -> None:
    check_parity_gate(checkpoint(tmp_path / "c", replace(SHAPE, bias=True)), tmp_path / "b", dtype)


def test_biases_are_the_default() -> None:
    """InternLM2Config has `bias` true where config.json has nothing."""
    raw = asdict(SHAPE) | {"model_type": "internlm2"}
    del raw["bias"]
    config: Any = family_of(raw).read_config(raw)
    assert (config.qkv_bias, config.output_bias, config.mlp_bias) == (True, True, False)
    with pytest.raises(CheckpointError, match="bias is 'no'"):
        family_of(raw).read_config(raw | {"bias": "no"})
