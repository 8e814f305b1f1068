"""LDL: ten levels an objective, mixed by a gate; its two networks lie in files of their own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from rmexport.errors import CheckpointError

Tensors = Mapping[str, torch.Tensor]
OBJECTIVES, WIDTH = 6, 40
CONFIG = {"architectures": ["LDLRewardModel27B"]}


def head_tensors(linear: Any) -> dict[str, torch.Tensor]:
    regression = [(0, WIDTH, 64), (2, WIDTH, WIDTH), (4, 10 * OBJECTIVES, WIDTH)]
    gating = [(0, WIDTH, 64), (3, WIDTH, WIDTH), (6, OBJECTIVES, WIDTH)]
    layers = [linear(f"regression_layer.network.{i}", rows, inputs, i) for i, rows, inputs in regression]
    layers += [linear(f"gating_layer.network.{i}", rows, inputs, 10 + i) for i, rows, inputs in gating]
    return {name: value for layer in layers for name, value in layer.items()}


def side_files(tensors: Tensors) -> dict[str, dict[str, torch.Tensor]]:
    """`torch.save(self.regression_layer.state_dict(), ...)`, and the same of the gate."""
    return {
        f"{stem}.pt": {k.removeprefix(f"{stem}."): v for k, v in tensors.items() if k.startswith(f"{stem}.")}
        for stem in ("regression_layer", "gating_layer")
    }


def network(name: str, last: int, w: Tensors) -> torch.nn.Sequential:
    """Linear, LeakyReLU (and a dropout in the gate) three times over, as the published classes stack them."""
    step = last // 2
    layers: list[torch.nn.Module] = []
    for i in range(0, last + 1, step):
        rows, inputs = w[f"{name}.network.{i}.weight"].shape
        layers += [torch.nn.Linear(inputs, rows), torch.nn.LeakyReLU(), *[torch.nn.Dropout(0.0)] * (step - 2)]
    stacked = torch.nn.Sequential(*layers[: last + 1])
    prefix = f"{name}.network."
    stacked.load_state_dict({k.removeprefix(prefix): v for k, v in w.items() if k.startswith(prefix)})
    return stacked.eval()


def published(read: Tensors, w: Tensors, temperature: float | None) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        bins = network("regression_layer", 4, w)(read["score"]).view(-1, 10).softmax(dim=-1)
        gating = network("gating_layer", 6, w)(read["score"])
    gating = gating if temperature is None else (gating / temperature).softmax(dim=-1)
    distribution = (gating[None] @ bins)[0]
    worth = torch.linspace(0, 1, 10)
    return {"score": (distribution * worth).sum(), "rewards": bins @ worth, "gating": gating}


@pytest.mark.parametrize("temperature", [None, 2.0], ids=["raw_gate", "softmax_gate"])
def test_scores_follow_the_published_forward(
    tmp_path: Path, headed: Any, linear: Any, gemma2: Any, temperature: float | None
) -> None:
    tensors = head_tensors(linear)
    config = CONFIG if temperature is None else CONFIG | {"softmax": True, "temperature": temperature}
    files = side_files(tensors)
    checkpoint = headed(tmp_path / "checkpoint", tensors, config, trunk=gemma2, prefix="", side_files=files)
    checkpoint.assert_scores_follow(
        tmp_path / "bundle", lambda ids: {"score": len(ids) - 1}, lambda read, w: published(read, w, temperature)
    )


def test_reads_before_the_first_pad(tmp_path: Path, headed: Any, linear: Any) -> None:
    spec = headed(tmp_path / "c", head_tensors(linear), CONFIG).spec()
    assert spec.head_name == "label_distribution"
    assert spec.head.positions["score"].rule == "before_first_pad"


def test_networks_that_disagree(tmp_path: Path, headed: Any, linear: Any) -> None:
    tensors = head_tensors(linear) | linear("regression_layer.network.4", 61, WIDTH, 4)
    with pytest.raises(CheckpointError, match=r"61 outputs and gating_layer.network.6 6, expected 10 levels for each"):
        headed(tmp_path / "c", tensors, CONFIG).spec()


@pytest.mark.ladder
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_passes_the_parity_gate(tmp_path: Path, headed: Any, linear: Any, dtype: str) -> None:
    checkpoint = headed(tmp_path / "checkpoint", head_tensors(linear), CONFIG)
    checkpoint.assert_gate_passes(tmp_path / "bundle", dtype)
