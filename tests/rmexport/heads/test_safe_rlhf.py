"""PKU's beaver: score_head with and without the normaliser of rewards and of costs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from conversations import messages_of
from reward_trunks import HIDDEN, check_gate, check_head, dialogues, normal, plain_ids, reward_trunk, spec_of
from rmexport.errors import CheckpointError
from tiny_checkpoints import TinyCheckpoint

WEIGHT, BIAS = normal(1, HIDDEN), normal(1, seed=1)
MEAN, VARIANCE = 0.4, 2.5
BUFFERS = {
    "normalizer.mean": torch.tensor([MEAN]),
    "normalizer.var": torch.tensor([VARIANCE]),
    "normalizer.count": torch.tensor([1000]),
}


def checkpoint_in(folder: Path, *, bias: bool = False, buffers: bool = True, **config: Any) -> TinyCheckpoint:
    head = {"score_head.weight": WEIGHT} | ({"score_head.bias": BIAS} if bias else {}) | (BUFFERS if buffers else {})
    return reward_trunk(folder, head, {"architectures": ["LlamaForScore"], "score_dim": 1, "bias": bias} | config)


def raw(state: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.linear(state, WEIGHT)[0]


def affine(state: torch.Tensor) -> torch.Tensor:
    """`(data - self.mean) / (self.std + epsilon)`, std = var.sqrt(), epsilon = 1e-8."""
    return (raw(state) - MEAN) / (torch.tensor(VARIANCE).sqrt() + 1e-8)


def scale(state: torch.Tensor) -> torch.Tensor:
    """`data / (self.std + epsilon)`"""
    return raw(state) / (torch.tensor(VARIANCE).sqrt() + 1e-8)


CASES: dict[str, tuple[dict[str, Any], Any]] = {
    "reward": ({"score_type": "reward", "do_normalize": True}, affine),
    "reward, numbers in the config": (
        {"score_type": "reward", "do_normalize": True, "buffers": False, "mean": [MEAN], "var": [VARIANCE]},
        affine,
    ),
    "not normalised": ({"score_type": "reward", "do_normalize": False}, raw),
    "critic": ({"score_type": "critic", "do_normalize": True}, raw),
    "cost": ({"score_type": "cost", "do_normalize": True}, scale),
    "bias": ({"bias": True, "buffers": False}, lambda state: raw(state) + BIAS[0]),
}


@pytest.mark.parametrize(("config", "score"), CASES.values(), ids=CASES)
def test_normaliser_by_score_type(tmp_path: Path, config: dict[str, Any], score: Any) -> None:
    checkpoint = checkpoint_in(tmp_path / "checkpoint", **config)
    assert spec_of(checkpoint).head_name == "safe_rlhf"
    check_head(checkpoint, tmp_path / "bundle", score)


@pytest.mark.parametrize("recipe", ["beaver", "beaver-cost"])
def test_published_prompt_and_the_negated_cost(tmp_path: Path, recipe: str) -> None:
    def ids_of(checkpoint: TinyCheckpoint, record: Mapping[str, Any]) -> list[int]:
        text, turns = "BEGINNING OF CONVERSATION: ", messages_of(dict(record))
        for asked, answered in zip(turns[::2], turns[1::2], strict=True):
            eos = "" if answered is turns[-1] else "<|end_of_text|>"
            text += f"USER: {asked['content']} ASSISTANT:{answered['content']}{eos}"
        return [checkpoint.tokenizer.bos_id, *plain_ids(checkpoint, text)]

    kind = "cost" if recipe == "beaver-cost" else "reward"
    checkpoint = checkpoint_in(tmp_path / "checkpoint", score_type=kind, do_normalize=True)
    score = affine if kind == "reward" else lambda state: -scale(state)
    check_head(checkpoint, tmp_path / "bundle", score, recipe=recipe, records=dialogues(17), ids_of=ids_of)


def test_a_cost_that_is_not_negated_is_noted(tmp_path: Path) -> None:
    checkpoint = checkpoint_in(tmp_path / "checkpoint", score_type="cost")
    assert any("the more harmful" in note for note in spec_of(checkpoint).notes)
    assert not any("the more harmful" in note for note in spec_of(checkpoint, "beaver-cost").notes)


@pytest.mark.parametrize(
    ("config", "message"),
    [({"score_type": "praise"}, "score_type is 'praise'"), ({"buffers": False, "mean": [1.0, 2.0]}, "mean is")],
)
def test_configs_that_make_no_sense(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        spec_of(checkpoint_in(tmp_path / "checkpoint", **config))


@pytest.mark.ladder
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_parity_gate(tmp_path: Path, dtype: str) -> None:
    check_gate(
        checkpoint_in(tmp_path / "checkpoint", score_type="reward", do_normalize=True), tmp_path / "bundle", dtype
    )
