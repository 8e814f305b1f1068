"""QRM: the published forward of both gate variants, and what tells it from ArmoRM, whose class has the same name."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from rmexport import export
from rmexport.errors import CheckpointError
from tiny_checkpoints import gated

OBJECTIVES, QUANTILES, WIDTH = 5, 7, 32
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForRewardModelWithGating"],
    "num_objectives": OBJECTIVES,
    "num_quantiles": QUANTILES,
    "gating_temperature": 5.0,
}
Tensors = Mapping[str, torch.Tensor]


def head_tensors(linear: Callable[..., dict[str, torch.Tensor]], *, batch_norm: bool) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    tensors = linear("regression_layer", OBJECTIVES * QUANTILES, 64, 0, bias=False)
    tensors["reward_transform_matrix"] = torch.eye(OBJECTIVES) - 0.2 * torch.rand(
        OBJECTIVES, OBJECTIVES, generator=generator
    )
    tensors["gating.logit_scale"] = torch.tensor([1.3])
    step = 3 if batch_norm else 1
    for i in range(3):
        tensors |= linear(f"gating.layers.{step * i}", WIDTH, 64 if i == 0 else WIDTH, i, bias=not batch_norm)
        if batch_norm:
            norm = f"gating.layers.{step * i + 2}"
            tensors[f"{norm}.weight"] = torch.rand(WIDTH, generator=generator) + 0.5
            tensors[f"{norm}.bias"] = torch.randn(WIDTH, generator=generator) * 0.2
            tensors[f"{norm}.running_mean"] = torch.randn(WIDTH, generator=generator) * 0.2
            tensors[f"{norm}.running_var"] = torch.rand(WIDTH, generator=generator) + 0.1
            tensors[f"{norm}.num_batches_tracked"] = torch.tensor(1234)
    return tensors | linear(f"gating.layers.{step * 3}", OBJECTIVES, WIDTH, 9)


def published_gate(
    z: torch.Tensor, w: Tensors, batch_norm: bool, temperature: float = CONFIG["gating_temperature"]
) -> torch.Tensor:
    functional, step = torch.nn.functional, 3 if batch_norm else 1
    z = z[None]
    for i in range(3):
        name = f"gating.layers.{step * i}"
        z = torch.relu(functional.linear(z, w[f"{name}.weight"], w.get(f"{name}.bias")))
        if batch_norm:
            norm = f"gating.layers.{step * i + 2}"
            statistics = (w[f"{norm}.running_mean"], w[f"{norm}.running_var"])
            z = functional.batch_norm(z, *statistics, w[f"{norm}.weight"], w[f"{norm}.bias"])
    last = f"gating.layers.{step * 3}"
    z = functional.linear(z, w[f"{last}.weight"], w[f"{last}.bias"])
    return functional.softmax(z / temperature, dim=1)[0] * w["gating.logit_scale"][0]


def published(read: Tensors, w: Tensors, batch_norm: bool) -> dict[str, torch.Tensor]:
    rewards = torch.nn.functional.linear(read["score"], w["regression_layer.weight"])
    expectation = rewards.reshape(OBJECTIVES, QUANTILES).mean(dim=1) @ w["reward_transform_matrix"]
    gating = published_gate(read["gate"], w, batch_norm)
    return {"score": (gating * expectation).sum(), "rewards": expectation, "gating": gating}


@pytest.mark.parametrize("batch_norm", [True, False], ids=["batch_norm", "plain"])
def test_scores_follow_the_published_forward(tmp_path: Path, headed: Any, linear: Any, batch_norm: bool) -> None:
    checkpoint = headed(tmp_path / "checkpoint", head_tensors(linear, batch_norm=batch_norm), CONFIG)
    pattern = list(checkpoint.checkpoint.tokenizer.gate_pattern)

    def reads(ids: list[int]) -> dict[str, int]:
        starts = [i for i in range(len(ids)) if ids[i : i + len(pattern)] == pattern]
        return {"score": len(ids) - 1, "gate": starts[-1]}

    checkpoint.assert_scores_follow(tmp_path / "bundle", reads, lambda read, w: published(read, w, batch_norm))


def test_on_gemma_2_there_is_no_transform(tmp_path: Path, headed: Any, linear: Any) -> None:
    """The class's own defaults: 19 quantiles, a gate at temperature 1; the head is the same on any backbone."""
    tensors = head_tensors(linear, batch_norm=True) | linear("regression_layer", OBJECTIVES * 19, 64, 0, bias=False)
    del tensors["reward_transform_matrix"]
    config = {"architectures": ["Gemma2ForQuantileSequenceClassification"]}
    checkpoint = headed(tmp_path / "checkpoint", tensors, config)
    head = checkpoint.spec().head
    assert (head.objectives, head.quantiles, head.temperature, head.transform) == (5, 19, 1.0, False)
    pattern = list(checkpoint.checkpoint.tokenizer.gate_pattern)

    def reads(ids: list[int]) -> dict[str, int]:
        return {"score": len(ids) - 1, "gate": [i for i in range(len(ids)) if ids[i : i + len(pattern)] == pattern][-1]}

    def forward(read: Tensors, w: Tensors) -> dict[str, torch.Tensor]:
        rewards = torch.nn.functional.linear(read["score"], w["regression_layer.weight"]).reshape(5, 19).mean(dim=1)
        gating = published_gate(read["gate"], w, batch_norm=True, temperature=1.0)
        return {"score": (gating * rewards).sum(), "rewards": rewards, "gating": gating}

    checkpoint.assert_scores_follow(tmp_path / "bundle", reads, forward)


def test_one_architecture_two_heads(tmp_path: Path, headed: Any, linear: Any) -> None:
    """`LlamaForRewardModelWithGating` is ArmoRM, or QRM where config.json counts quantiles."""
    armorm = export(str(gated(tmp_path / "armorm").folder), tmp_path / "a")
    folder = headed(tmp_path / "qrm", head_tensors(linear, batch_norm=True), CONFIG).folder
    qrm = export(str(folder), tmp_path / "b")
    assert armorm.backbone.architecture == qrm.backbone.architecture
    assert (armorm.head, qrm.head) == ("gated_objectives", "quantile_gated")


def test_names_the_published_objectives(tmp_path: Path, headed: Any, linear: Any) -> None:
    tensors = head_tensors(linear, batch_norm=True)
    tensors |= linear("regression_layer", 19 * QUANTILES, 64, 0, bias=False) | linear("gating.layers.9", 19, WIDTH, 9)
    tensors["reward_transform_matrix"] = torch.eye(19)
    spec = headed(tmp_path / "c", tensors, CONFIG | {"num_objectives": 19}).spec()
    labels = spec.head.outputs[1].labels
    assert labels is not None
    assert (labels[0], labels[18]) == ("helpsteer-helpfulness", "code-readability")
    assert spec.recipe is not None and spec.recipe.name == "qrm"


def test_reads_before_the_first_pad(tmp_path: Path, headed: Any, linear: Any) -> None:
    spec = headed(tmp_path / "c", head_tensors(linear, batch_norm=True), CONFIG).spec()
    assert spec.head.positions["score"].rule == "before_first_pad"
    assert spec.head.positions["gate"].rule == "pattern_start"


def test_rows_that_the_config_does_not_imply(tmp_path: Path, headed: Any, linear: Any) -> None:
    checkpoint = headed(tmp_path / "c", head_tensors(linear, batch_norm=True), CONFIG | {"num_quantiles": 6})
    with pytest.raises(CheckpointError, match=r"35 rows, config.json implies 5 objectives of 6 quantiles"):
        checkpoint.spec()


@pytest.mark.parametrize(
    "missing, message",
    [
        ("gating.layers.5.running_var", r"gating.layers.5.running_var is missing, expected \[32\]"),
        ("gating.layers.9.weight", "the gate ends in 32, expected a linear layer of 5 outputs"),
    ],
)
def test_a_gate_with_parts_missing(tmp_path: Path, headed: Any, linear: Any, missing: str, message: str) -> None:
    tensors = head_tensors(linear, batch_norm=True)
    del tensors[missing]
    with pytest.raises(CheckpointError, match=message):
        headed(tmp_path / "c", tensors, CONFIG).spec()


@pytest.mark.ladder
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_passes_the_parity_gate(tmp_path: Path, headed: Any, linear: Any, dtype: str) -> None:
    checkpoint = headed(tmp_path / "checkpoint", head_tensors(linear, batch_norm=True), CONFIG)
    checkpoint.assert_gate_passes(tmp_path / "bundle", dtype)
