"""URM: means of the attributes' distributions, weighted by a network on the same token."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from rmexport.errors import CheckpointError

Tensors = Mapping[str, torch.Tensor]
CONFIG = {"architectures": ["LlamaForSequenceClassificationWithNormal_Weights"]}


def head_tensors(linear: Any, attributes: int = 5) -> dict[str, torch.Tensor]:
    layers = [linear("score", 2 * attributes, 64, 0, bias=False)]
    layers += [linear("weights.fc.0", 64, 64, 1), linear("weights.fc.2", 64, 64, 2)]
    return {k: v for layer in (*layers, linear("weights.fc.4", attributes, 64, 3)) for k, v in layer.items()}


def published(read: Tensors, w: Tensors) -> dict[str, torch.Tensor]:
    """SGLang's forward: `logits.view(-1, n, 2)[:, :, 0]` times the output of Linear, SELU, Linear, SELU, Linear."""
    functional, z = torch.nn.functional, read["score"]
    for i in (0, 2, 4):
        z = functional.linear(z, w[f"weights.fc.{i}.weight"], w[f"weights.fc.{i}.bias"])
        z = functional.selu(z) if i < 4 else z
    means = functional.linear(read["score"], w["score.weight"]).view(-1, 2)[:, 0]
    return {"score": (means * z).sum(), "rewards": means, "gating": z}


def test_scores_follow_the_published_forward(tmp_path: Path, headed: Any, linear: Any) -> None:
    checkpoint = headed(tmp_path / "checkpoint", head_tensors(linear), CONFIG)
    checkpoint.assert_scores_follow(tmp_path / "bundle", lambda ids: {"score": len(ids) - 1}, published)


def test_takes_the_classifiers_layer_as_its_own(tmp_path: Path, headed: Any, linear: Any) -> None:
    """A plain `score.weight` is there too: the head that accounts for more of the tensors is the one."""
    spec = headed(tmp_path / "c", head_tensors(linear), CONFIG).spec()
    assert spec.head_name == "uncertainty_weighted"
    assert "sequence_classification" in spec.because["head"]


def test_names_of_the_published_attributes(tmp_path: Path, headed: Any, linear: Any) -> None:
    checkpoint = headed(tmp_path / "c", head_tensors(linear), CONFIG)
    assert checkpoint.spec().head.outputs[1].labels == tuple(f"attribute_{i}" for i in range(5))
    assert checkpoint.spec("urm").head.outputs[1].labels == (
        *("helpfulness", "correctness", "coherence", "complexity", "verbosity"),
    )


def test_layers_that_disagree(tmp_path: Path, headed: Any, linear: Any) -> None:
    tensors = head_tensors(linear) | linear("score", 9, 64, 0, bias=False)
    with pytest.raises(CheckpointError, match=r"9 rows and weights.fc.4 5 outputs, expected 10 rows"):
        headed(tmp_path / "c", tensors, CONFIG).spec()


@pytest.mark.ladder
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_passes_the_parity_gate(tmp_path: Path, headed: Any, linear: Any, dtype: str) -> None:
    checkpoint = headed(tmp_path / "checkpoint", head_tensors(linear), CONFIG)
    checkpoint.assert_gate_passes(tmp_path / "bundle", dtype)
