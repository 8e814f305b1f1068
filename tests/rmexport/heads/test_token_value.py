"""veRL's reward models: token classifiers of one label, read at the last token."""

from pathlib import Path

import pytest
import torch

from reward_trunks import HIDDEN, check_gate, check_head, normal, reward_trunk, spec_of
from tiny_checkpoints import TinyCheckpoint

WEIGHT, BIAS = normal(1, HIDDEN), normal(1, seed=1)


def checkpoint_in(folder: Path, layer: str, *, bias: bool) -> TinyCheckpoint:
    head = {f"{layer}.weight": WEIGHT} | ({f"{layer}.bias": BIAS} if bias else {})
    return reward_trunk(folder, head, {"architectures": ["LlamaForTokenClassification"], "num_labels": 1})


@pytest.mark.parametrize(("layer", "bias"), [("score", True), ("score", False), ("classifier", True)])
def test_raw_value_at_the_last_token(tmp_path: Path, layer: str, bias: bool) -> None:
    def score(state: torch.Tensor) -> torch.Tensor:
        """`rm_score = output.logits.squeeze(-1)`, at `argmax(position_ids * attention_mask)`."""
        return torch.nn.functional.linear(state, WEIGHT, BIAS if bias else None)[0]

    checkpoint = checkpoint_in(tmp_path / "checkpoint", layer, bias=bias)
    assert spec_of(checkpoint).head_name == "token_value"
    check_head(checkpoint, tmp_path / "bundle", score)


@pytest.mark.ladder
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_parity_gate(tmp_path: Path, dtype: str) -> None:
    check_gate(checkpoint_in(tmp_path / "checkpoint", "score", bias=True), tmp_path / "bundle", dtype)
