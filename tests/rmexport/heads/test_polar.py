"""POLAR is refused with the reason, and told from InternLM2's reward models, whose class it has."""

from pathlib import Path
from typing import Any

import pytest

from reward_trunks import HIDDEN, normal, reward_trunk, spec_of
from rmexport.errors import UnsupportedModel
from tiny_checkpoints import TinyCheckpoint

CONFIG = {"architectures": ["InternLM2ForRewardModel"], "reward_token_id": 5}


def checkpoint_in(folder: Path, **config: Any) -> TinyCheckpoint:
    return reward_trunk(folder, {"v_head.weight": normal(1, HIDDEN)}, CONFIG | config)


@pytest.mark.parametrize(
    "rope",
    [{"rope_parameters": None, "rope_theta": 5e7}, {"rope_parameters": {"rope_type": "default", "rope_theta": 5e7}}],
)
def test_told_by_its_rope_base(tmp_path: Path, rope: dict[str, Any]) -> None:
    polar = checkpoint_in(tmp_path / "checkpoint", **rope)
    with pytest.raises(UnsupportedModel, match=r"(?s)POLAR.*reference answer.*--recipe internlm2-reward"):
        spec_of(polar)
    assert spec_of(polar, "internlm2-reward").head_name == "internlm2_reward"  # the user's word counts


def test_told_by_its_name(tmp_path: Path) -> None:
    """The recipe of internlm/POLAR-1_8B, whose config.json does not give it away."""
    polar = checkpoint_in(tmp_path / "checkpoint")
    assert spec_of(polar).head_name == "internlm2_reward"
    with pytest.raises(UnsupportedModel, match="POLAR"):
        spec_of(polar, "polar")
