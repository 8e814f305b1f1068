"""UltraRM and Eurus: regression_head on the last token, their published prompts, and Ziya's class of the same name."""

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

ULTRARM = {"architectures": ["LlamaRewardModel"]}


def checkpoint_in(folder: Path) -> TinyCheckpoint:
    return reward_trunk(folder, {"regression_head.weight": normal(1, HIDDEN)}, ULTRARM)


def score(state: torch.Tensor) -> torch.Tensor:
    """`rewards = self.regression_head(hidden_states).squeeze(-1)`, gathered at the last attended token."""
    head = torch.nn.Linear(HIDDEN, 1, bias=False)
    head.load_state_dict({"weight": normal(1, HIDDEN)})
    return head(state[None]).squeeze(-1).detach()


def test_the_last_token_through_the_checkpoints_own_template(tmp_path: Path) -> None:
    checkpoint = checkpoint_in(tmp_path / "checkpoint")
    assert spec_of(checkpoint).head_name == "regression_head"
    check_head(checkpoint, tmp_path / "bundle", score)


PROMPTS = {  # the published single-turn prompts, and how further turns continue them
    "ultrarm": ({"user": "Human: {}", "assistant": "Assistant: {}"}, "\n\n"),
    "eurus": ({"user": "[INST] {} [/INST]", "assistant": " {}"}, "<|end_of_text|>"),
}


@pytest.mark.parametrize("recipe", PROMPTS)
def test_published_prompts(tmp_path: Path, recipe: str) -> None:
    turns, joiner = PROMPTS[recipe]

    def ids_of(checkpoint: TinyCheckpoint, record: Mapping[str, Any]) -> list[int]:
        texts = [turns[m["role"]].format(m["content"]) for m in messages_of(dict(record))]
        if recipe == "ultrarm":
            text = joiner.join(texts)
        else:  # Mistral-Instruct closes the answers of earlier turns
            text = joiner.join("".join(texts[i : i + 2]) for i in range(0, len(texts), 2))
        return [checkpoint.tokenizer.bos_id, *plain_ids(checkpoint, text)]

    checkpoint = checkpoint_in(tmp_path / "checkpoint")
    check_head(checkpoint, tmp_path / "bundle", score, recipe=recipe, records=dialogues(17), ids_of=ids_of)


def test_eurus_on_its_own_backbone(tmp_path: Path) -> None:
    """EurusRewardModel: MistralModel and the same head, windows shorter than the text."""
    fields = {
        "hidden_size": HIDDEN, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 512, "sliding_window": 16,
    }  # fmt: skip
    checkpoint = family_checkpoint(tmp_path / "checkpoint", "mistral", fields)
    tensors = load_file(checkpoint.folder / "model.safetensors")
    del tensors["score.weight"]
    save_file(tensors | {"regression_head.weight": normal(1, HIDDEN)}, checkpoint.folder / "model.safetensors")
    raw = json.loads((checkpoint.folder / "config.json").read_text())
    (checkpoint.folder / "config.json").write_text(json.dumps(raw | {"architectures": ["EurusRewardModel"]}))
    assert spec_of(checkpoint).head_name == "regression_head"
    check_head(checkpoint, tmp_path / "bundle", score)


@pytest.mark.parametrize("weight", ["value_head.weight", "rm_head.weight"])
def test_ziya_names_its_class_as_ultrarm_does(tmp_path: Path, weight: str) -> None:
    checkpoint = reward_trunk(tmp_path / "checkpoint", {weight: normal(1, HIDDEN)}, ULTRARM)
    with pytest.raises(UnsupportedModel, match=rf"(?s)no reward head recognised.*LlamaRewardModel.*{weight}.*known"):
        spec_of(checkpoint)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_parity_gate(tmp_path: Path, dtype: str) -> None:
    check_gate(checkpoint_in(tmp_path / "checkpoint"), tmp_path / "bundle", dtype, "ultrarm")
