"""Open-Assistant's reward head: out_proj with a bias, pooling last."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from conversations import messages_of
from family_checkpoints import family_checkpoint
from reward_trunks import HIDDEN, check_gate, check_head, dialogues, normal, plain_ids, reward_trunk, spec_of
from rmexport.errors import UnsupportedModel
from tiny_checkpoints import TinyCheckpoint

HEAD = {"out_proj.weight": normal(1, HIDDEN), "out_proj.bias": normal(1, seed=1)}
ROLES = {"user": "<|prompter|>", "assistant": "<|assistant|>"}


def checkpoint_in(folder: Path, **config: Any) -> TinyCheckpoint:
    return reward_trunk(folder, HEAD, {"architectures": ["GPTNeoXRewardModel"]} | config)


def score(state: torch.Tensor) -> torch.Tensor:
    """`logits = self.out_proj(pooled)`, pooled at `attention_mask.cumsum(dim=1).argmax(dim=1)`."""
    return torch.nn.functional.linear(state, HEAD["out_proj.weight"], HEAD["out_proj.bias"])[0]


def test_pooling_last(tmp_path: Path) -> None:
    checkpoint = checkpoint_in(tmp_path / "checkpoint", pooling="last")
    assert spec_of(checkpoint).head_name == "open_assistant"
    check_head(checkpoint, tmp_path / "bundle", score)


def test_published_prompt(tmp_path: Path) -> None:
    def ids_of(checkpoint: TinyCheckpoint, record: Mapping[str, Any]) -> list[int]:
        turns = messages_of(dict(record))
        return plain_ids(checkpoint, "".join(f"{ROLES[m['role']]}{m['content']}<|endoftext|>" for m in turns))

    checkpoint = checkpoint_in(tmp_path / "checkpoint")
    check_head(checkpoint, tmp_path / "bundle", score, recipe="open-assistant", records=dialogues(17), ids_of=ids_of)


def test_on_its_own_backbone(tmp_path: Path) -> None:
    """GPTNeoXRewardModel as save_pretrained writes it, but for the registered name of its config."""
    fields = {
        "hidden_size": HIDDEN, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 512,
    }  # fmt: skip
    checkpoint = family_checkpoint(tmp_path / "checkpoint", "gpt_neox", fields)
    tensors = load_file(checkpoint.folder / "model.safetensors")
    del tensors["score.weight"]
    save_file(tensors | HEAD, checkpoint.folder / "model.safetensors")
    raw = json.loads((checkpoint.folder / "config.json").read_text())
    own = {"architectures": ["GPTNeoXRewardModel"], "model_type": "gpt_neox_reward_model", "pooling": "last"}
    (checkpoint.folder / "config.json").write_text(json.dumps(raw | own))
    assert spec_of(checkpoint).head_name == "open_assistant"
    check_head(checkpoint, tmp_path / "bundle", score)


def test_pooling_mean_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"(?s)pooling 'mean'.*every token"):
        spec_of(checkpoint_in(tmp_path / "checkpoint", pooling="mean"))


@pytest.mark.ladder
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_parity_gate(tmp_path: Path, dtype: str) -> None:
    check_gate(checkpoint_in(tmp_path / "checkpoint"), tmp_path / "bundle", dtype)
