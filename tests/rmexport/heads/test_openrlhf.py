"""OpenRLHF's heads: whatever value_head_prefix says, the last attended token, and normalised rewards."""

from pathlib import Path
from typing import Any

import pytest
import torch

from reward_trunks import HIDDEN, check_gate, check_head, normal, reward_trunk, spec_of
from rmexport.errors import CheckpointError
from tiny_checkpoints import TinyCheckpoint
from tiny_tokenizer import EOT

MEAN, STD = 0.3, 1.7


def checkpoint_in(folder: Path, layer: str = "value_head", **config: Any) -> TinyCheckpoint:
    return reward_trunk(folder, {f"{layer}.weight": normal(1, HIDDEN)}, {"architectures": ["RewardModel"]} | config)


def raw(state: torch.Tensor) -> torch.Tensor:
    """`values = self.value_head(last_hidden_states).squeeze(-1)`, gathered at the last attended token."""
    return torch.nn.functional.linear(state, normal(1, HIDDEN)).squeeze(-1)


def normalised(state: torch.Tensor) -> torch.Tensor:
    """`reward = (reward - self.mean) / self.std`"""
    return (raw(state) - MEAN) / STD


@pytest.mark.parametrize(
    ("layer", "config"),
    [("value_head", {}), ("score", {"value_head_prefix": "score"}), ("reward", {"value_head_prefix": "reward"})],
)
def test_the_layer_that_the_config_names(tmp_path: Path, layer: str, config: dict[str, str]) -> None:
    checkpoint = checkpoint_in(tmp_path / "checkpoint", layer, **config)
    spec = spec_of(checkpoint)
    assert spec.head_name == "openrlhf"
    assert f"{layer}.weight" in spec.because["head"] and (
        "value_head_prefix in config.json" in spec.because["head"]
    ) == bool(config)
    check_head(checkpoint, tmp_path / "bundle", raw)


def test_a_score_layer_with_the_prefix_in_the_config_reads_a_last_token_that_is_also_the_pad_token(
    tmp_path: Path,
) -> None:
    eot = checkpoint_in(tmp_path / "tokenizer").tokenizer.eot_id  # ends every conversation of this template
    checkpoint = checkpoint_in(tmp_path / "checkpoint", "score", value_head_prefix="score", pad_token_id=eot)
    assert EOT in (checkpoint.folder / "chat_template.jinja").read_text()
    check_head(checkpoint, tmp_path / "bundle", raw)
    plain = checkpoint_in(tmp_path / "plain", "score", pad_token_id=eot)
    assert spec_of(plain).head_name == "sequence_classification"
    assert spec_of(plain).head.positions["score"].rule == "last_not_pad"


@pytest.mark.parametrize(
    ("recipe", "config"), [("openrlhf-normalized", {}), (None, {"normalize_reward": True})], ids=["recipe", "config"]
)
def test_normalised_rewards(tmp_path: Path, recipe: str | None, config: dict[str, Any]) -> None:
    checkpoint = checkpoint_in(tmp_path / "checkpoint", mean=MEAN, std=STD, **config)
    check_head(checkpoint, tmp_path / "bundle", normalised, recipe=recipe)


def test_a_mean_that_is_not_used_is_noted(tmp_path: Path) -> None:
    checkpoint = checkpoint_in(tmp_path / "checkpoint", mean=MEAN, std=STD)
    assert any("openrlhf-normalized" in note for note in spec_of(checkpoint).notes)
    check_head(checkpoint, tmp_path / "bundle", raw)


@pytest.mark.parametrize(("config", "message"), [({"mean": 0.1}, "no std"), ({"mean": 0.1, "std": 0.0}, "std is 0")])
def test_normalising_needs_the_numbers(tmp_path: Path, config: dict[str, float], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        spec_of(checkpoint_in(tmp_path / "checkpoint", **config), "openrlhf-normalized")


@pytest.mark.ladder
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_parity_gate(tmp_path: Path, dtype: str) -> None:
    check_gate(
        checkpoint_in(tmp_path / "checkpoint", mean=MEAN, std=STD), tmp_path / "bundle", dtype, "openrlhf-normalized"
    )
