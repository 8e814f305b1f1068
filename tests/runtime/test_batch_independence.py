"""A score is bitwise the same alone, in any batch and in stages: every family there is, on every CPU engine."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import save_file

from conversations import ragged_records
from family_checkpoints import family_checkpoint
from internlm2_model import Internlm2ForSequenceClassification, Internlm2Shape
from rmexport import ExportOptions, export
from rmexport.families import families
from rmruntime import RewardModel, ScoreOptions
from rmruntime.backends import backends
from tiny_checkpoints import shaken
from tiny_tokenizer import build_tokenizer

FIELDS: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "head_dim": 16,
    "max_position_embeddings": 2048,
    "sliding_window": 24,
    # Five shares of a token: sums over that many come out by their address where the order is left to the engine.
    "num_local_experts": 16,
    "num_experts_per_tok": 5,
    "moe_intermediate_size": 24,
    "norm_topk_prob": True,
}
MORE = {"gpt_neox": {"num_key_value_heads": 4}}  # it has no fewer of them
# The same backbones under another class's name, and layers that are another family's.
OTHERS_NAMES = {"gemma3", "gpt_neox_reward_model", "qwen2_5_vl", "qwen2_5_vl_text", "qwen3_vl", "qwen3_vl_text"}
Dtype = Literal["fp32", "bf16"]
ENGINES: tuple[tuple[str, Dtype], ...] = (("ort-cpu", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"))
NOT_CAUSAL = {"llama_bidirec"}  # compared bit by bit by its own test, as transformers has no such class
NAMES = sorted(families().keys() - OTHERS_NAMES - NOT_CAUSAL)
EVERYWHERE = {"llama", "qwen3_moe"}  # without experts and with them: in fp32 on every engine, not on one alone


def is_ladder(name: str, device: str, dtype: str) -> bool:
    """Whether the same is shown with another family or engine."""
    return dtype == "bf16" or (device == "openvino" and name not in EVERYWHERE)


CASES = [
    pytest.param(name, device, dtype, marks=[pytest.mark.ladder] if is_ladder(name, device, dtype) else [])
    for name in NAMES
    for device, dtype in ENGINES
]


def checkpoint_in(folder: Path, model_type: str) -> Path:
    if model_type != "internlm2":
        family_checkpoint(folder, model_type, {"num_key_value_heads": 2, **FIELDS, **MORE.get(model_type, {})})
        return folder
    tokenizer = build_tokenizer(folder)
    shape = Internlm2Shape(vocab_size=tokenizer.vocab_size)
    save_file(
        shaken(Internlm2ForSequenceClassification(shape), torch.float32).state_dict(), folder / "model.safetensors"
    )
    raw = {"model_type": model_type, "architectures": ["InternLM2ForSequenceClassification"], "num_labels": 1}
    (folder / "config.json").write_text(json.dumps({**asdict(shape), **raw, "pad_token_id": tokenizer.pad_id}))
    return folder


@pytest.mark.parametrize(("model_type", "device", "dtype"), CASES)
def test_a_score_does_not_depend_on_its_batch(tmp_path: Path, model_type: str, device: str, dtype: Dtype) -> None:
    pytest.importorskip(backends()[device].PACKAGE)
    bundle = tmp_path / "b"
    export(str(checkpoint_in(tmp_path / "c", model_type)), bundle, ExportOptions(dtype=dtype, stages=2))
    records = [*ragged_records(9, 3), {"input_ids": [7]}, {"input_ids": [7, 8]}]
    with RewardModel.load(bundle, device=device, threads=2) as model:  # which share a product's rows
        alone = [model.score([record])[0] for record in records]
        for budget in (4096, 200):
            assert model.score(records, ScoreOptions(max_batch_tokens=budget)) == alone, budget
    with RewardModel.load(bundle, device=f"{device},{device}", threads=2) as model:
        staged = model.score(records)
    assert staged == alone, "in two stages"
