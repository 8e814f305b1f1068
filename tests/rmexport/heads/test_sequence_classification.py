"""Recipes of plain sequence classifiers: the BOS that each published pipeline ends up with."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from conversations import messages_of
from reward_trunks import HIDDEN, check_gate, check_head, normal, reward_trunk, spec_of, tokenizer_of
from rmexport.prompt.recipe import recipe_for
from tiny_checkpoints import TinyCheckpoint
from tiny_tokenizer import BOS, LLAMA3


def one_bos(checkpoint: TinyCheckpoint, record: Mapping[str, Any]) -> list[int]:
    """Skywork, FsfairX: `apply_chat_template(tokenize=False).replace(bos_token, "")`, then the tokenizer adds one."""
    tokenizer = tokenizer_of(checkpoint.folder)
    text = tokenizer.apply_chat_template(messages_of(dict(record)), tokenize=False).replace(BOS, "")
    ids: list[int] = tokenizer(text)["input_ids"]
    return ids


def score(state: torch.Tensor) -> torch.Tensor:
    """`logits = self.score(hidden_states)`"""
    return torch.nn.functional.linear(state, normal(1, HIDDEN))[0]


@pytest.mark.parametrize("recipe", ["skywork", "skywork-v2", "fsfairx"])
@pytest.mark.parametrize("template", [LLAMA3, LLAMA3.replace("{{- bos_token }}", "", 1)], ids=["bos", "no bos"])
def test_exactly_one_bos_whatever_the_template_writes(tmp_path: Path, recipe: str, template: str) -> None:
    checkpoint = reward_trunk(
        tmp_path / "checkpoint", {"score.weight": normal(1, HIDDEN)}, {"num_labels": 1}, template=template
    )
    assert one_bos(checkpoint, {"prompt": "a", "response": "b"}).count(checkpoint.tokenizer.bos_id) == 1
    check_head(checkpoint, tmp_path / "bundle", score, recipe=recipe, ids_of=one_bos)


@pytest.mark.parametrize(
    ("repo", "recipe"),
    [
        ("Skywork/Skywork-Reward-Llama-3.1-8B-v0.2", "skywork"),
        ("Skywork/Skywork-Reward-V2-Llama-3.2-1B", "skywork-v2"),
        ("sfairXC/FsfairX-LLaMA3-RM-v0.1", "fsfairx"),
    ],
)
def test_chosen_for_the_published_repositories(repo: str, recipe: str) -> None:
    found = recipe_for(None, repo)
    assert found is not None and (found.name, found.bos) == (recipe, "one")


def test_a_bias_is_added_unless_a_recipe_says_otherwise(tmp_path: Path) -> None:
    """transformers has no bias there and leaves it out of what it loads: the note says so (4.3)."""
    bias = torch.tensor([0.5])
    head = {"score.weight": normal(1, HIDDEN), "score.bias": bias}
    checkpoint = reward_trunk(tmp_path / "checkpoint", head, {"num_labels": 1})
    assert any("score.bias: it is added; transformers leaves it out" in note for note in spec_of(checkpoint).notes)
    check_head(checkpoint, tmp_path / "bundle", lambda state: score(state) + bias[0])
    recipe = tmp_path / "mine.json"
    recipe.write_text(json.dumps({"name": "mine", "description": "d", "drop_bias": True}))
    check_head(checkpoint, tmp_path / "without", score, recipe=str(recipe))
    check_gate(checkpoint, tmp_path / "half", "bf16")  # whose reference has the bias too
