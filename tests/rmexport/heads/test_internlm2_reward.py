"""InternLM2's reward head at its appended token, on a Llama and in the published layout."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from reward_trunks import HIDDEN, chat_ids, check_gate, check_head, normal, reward_trunk, spec_of
from rmexport import export
from rmexport.errors import CheckpointError, OptionError
from rmruntime import RewardModel, Score
from tiny_checkpoints import TinyCheckpoint, TinyShape

REWARD_TOKEN = 5
CONFIG = {"architectures": ["InternLM2ForRewardModel"], "reward_token_id": REWARD_TOKEN}


def checkpoint_in(folder: Path, **config: Any) -> TinyCheckpoint:
    return reward_trunk(folder, {"v_head.weight": normal(1, HIDDEN)}, CONFIG | config)


def ids_of(checkpoint: TinyCheckpoint, record: Mapping[str, Any]) -> list[int]:
    """get_score: the rendered conversation's ids, and the reward token where it is not last already."""
    ids = chat_ids(checkpoint, record)
    return ids if ids[-1] == REWARD_TOKEN else [*ids, REWARD_TOKEN]


def score(state: torch.Tensor) -> torch.Tensor:
    """`reward_scores = self.v_head(hidden_states)`, at the last attended position."""
    return torch.nn.functional.linear(state, normal(1, HIDDEN))[0]


def test_read_at_the_appended_token(tmp_path: Path) -> None:
    checkpoint = checkpoint_in(tmp_path / "checkpoint")
    spec = spec_of(checkpoint)
    assert (spec.head_name, spec.head.append) == ("internlm2_reward", (REWARD_TOKEN,))
    check_head(checkpoint, tmp_path / "bundle", score, ids_of=ids_of)


def as_internlm2(tensors: Mapping[str, torch.Tensor], shape: TinyShape) -> dict[str, torch.Tensor]:
    """The same weights as modeling_internlm2.py has them: wqkv holds each key head's queries, then key and value."""
    names = {
        "embed_tokens": "tok_embeddings", "self_attn.o_proj": "attention.wo", "mlp.gate_proj": "feed_forward.w1",
        "mlp.up_proj": "feed_forward.w3", "mlp.down_proj": "feed_forward.w2", "input_layernorm": "attention_norm",
        "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    found = {}
    for name, value in tensors.items():
        if "_proj" not in name or any(old in name for old in names):
            new = next((name.replace(old, new) for old, new in names.items() if old in name), name)
            found[new] = value
    size = shape.hidden_size // shape.num_attention_heads
    for i in range(shape.num_hidden_layers):
        parts = [tensors[f"model.layers.{i}.self_attn.{x}_proj.weight"] for x in "qkv"]
        groups = [part.view(shape.num_key_value_heads, -1, size, shape.hidden_size) for part in parts]
        wqkv = torch.cat(groups, dim=1).reshape(-1, shape.hidden_size)
        found[f"model.layers.{i}.attention.wqkv.weight"] = wqkv
    return found


def test_published_layout(tmp_path: Path) -> None:
    checkpoint = checkpoint_in(tmp_path / "checkpoint", model_type="internlm2", bias=False)
    path = checkpoint.folder / "model.safetensors"
    save_file(as_internlm2(load_file(path), TinyShape()), path)
    spec = spec_of(checkpoint)
    assert spec.head_name == "internlm2_reward" and "model.tok_embeddings.weight" in load_file(path)
    check_head(checkpoint, tmp_path / "bundle", score, ids_of=ids_of)


@pytest.mark.ladder
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_parity_gate(tmp_path: Path, dtype: str) -> None:
    check_gate(checkpoint_in(tmp_path / "checkpoint"), tmp_path / "bundle", dtype)


def test_a_reward_token_that_is_there_already_is_not_repeated(tmp_path: Path) -> None:
    checkpoint = checkpoint_in(tmp_path / "checkpoint")
    export(str(checkpoint.folder), tmp_path / "bundle")
    ids = chat_ids(checkpoint, {"prompt": "a", "response": "b"})
    with RewardModel.load(tmp_path / "bundle", device="ort-cpu") as model:
        once, given = model.score([{"input_ids": ids}, {"input_ids": [*ids, REWARD_TOKEN]}])
    assert isinstance(once, Score) and isinstance(given, Score)
    assert (once.value, once.tokens) == (given.value, len(ids) + 1)


def test_a_config_without_the_reward_token_is_refused(tmp_path: Path) -> None:
    checkpoint = checkpoint_in(tmp_path / "checkpoint", reward_token_id=None)
    with pytest.raises(CheckpointError, match="reward_token_id"):
        spec_of(checkpoint)


def test_a_recipe_that_appends_something_else_is_refused(tmp_path: Path) -> None:
    checkpoint = checkpoint_in(tmp_path / "checkpoint")
    recipe = tmp_path / "mine.json"
    recipe.write_text(json.dumps({"name": "mine", "description": "d", "append": "the answer"}))
    with pytest.raises(OptionError, match=r"appends 'the answer', but the head appends the token ids \[5\]"):
        spec_of(checkpoint, str(recipe))
