"""A layer of one row under any name is found where it is the only one, and named by a recipe where it is not (4.3)."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from reward_trunks import HIDDEN, check_gate, check_head, normal, reward_trunk, spec_of
from rmexport.errors import CheckpointError, OptionError, UnsupportedModel
from tiny_checkpoints import TinyCheckpoint

CAUSAL = {"architectures": ["LlamaForCausalLM"]}
NAMES = ("v_head", "reward_head", "rm_head", "classifier", "v_head.0", "value_head.summary", "model_reward.layer.out")
BIAS = torch.tensor([0.5])


def score(state: torch.Tensor) -> torch.Tensor:
    """The value of the layer, without a bias."""
    return (normal(1, HIDDEN) @ state)[0]


def shifted(state: torch.Tensor) -> torch.Tensor:
    """With one."""
    return score(state) + BIAS[0]


def recipe_in(folder: Path, **fields: Any) -> str:
    path = folder / "mine.json"
    path.write_text(json.dumps({"name": "mine", "description": "d", **fields}))
    return str(path)


def two_heads(folder: Path) -> TinyCheckpoint:
    heads = {"reward_head.weight": normal(1, HIDDEN), "cost_head.weight": normal(1, HIDDEN, seed=7)}
    return reward_trunk(folder, heads | {"cost_head.bias": BIAS.clone(), "reward_head.bias": BIAS}, CAUSAL)


@pytest.mark.parametrize("name", NAMES)
def test_the_only_one_is_found(tmp_path: Path, name: str) -> None:
    checkpoint = reward_trunk(tmp_path / "c", {f"{name}.weight": normal(1, HIDDEN), f"{name}.bias": BIAS}, CAUSAL)
    spec = spec_of(checkpoint)
    assert (spec.head_name, spec.head.value.layers[0].bias) == ("one_row", True)
    assert any(f"the value of {name} at the last token" in note for note in spec.notes)


def test_deepspeed_chat(tmp_path: Path) -> None:
    """`v_head` beside a backbone called `rwtransformer`, no bias."""
    checkpoint = reward_trunk(
        tmp_path / "c", {"v_head.weight": normal(1, HIDDEN)}, CAUSAL, prefixes=("rwtransformer.",)
    )
    check_head(checkpoint, tmp_path / "bundle", score)


def test_a_bias_is_added_unless_a_recipe_says_otherwise(tmp_path: Path) -> None:
    head = {"reward_head.weight": normal(1, HIDDEN), "reward_head.bias": BIAS}
    checkpoint = reward_trunk(tmp_path / "c", head, CAUSAL, prefixes=("backbone_model.model.",))
    check_head(checkpoint, tmp_path / "bundle", shifted)
    check_head(checkpoint, tmp_path / "without", score, recipe=recipe_in(tmp_path, drop_bias=True))


def test_of_several_a_recipe_names_the_one(tmp_path: Path) -> None:
    checkpoint = two_heads(tmp_path / "c")
    with pytest.raises(
        UnsupportedModel, match=r"cost_head\.weight \[1, 64\], reward_head\.weight \[1, 64\].*head_tensor"
    ):
        spec_of(checkpoint)
    for named in ("reward_head.weight", "reward_head"):
        spec = spec_of(checkpoint, recipe_in(tmp_path, head_tensor=named))
        assert any("cost_head, of one row too, left out" in note for note in spec.notes)
    check_head(checkpoint, tmp_path / "bundle", shifted, recipe=recipe_in(tmp_path, head_tensor="reward_head.weight"))


@pytest.mark.parametrize("named", ["no_head.weight", "lm_head.weight", "model.norm.weight"])
def test_a_recipe_that_names_no_such_layer(tmp_path: Path, named: str) -> None:
    checkpoint = two_heads(tmp_path / "c")
    with pytest.raises(CheckpointError, match=rf"{named} is .*expected a weight \[1, 64\].*cost_head"):
        spec_of(checkpoint, recipe_in(tmp_path, head_tensor=named))


def test_head_tensor_is_for_this_head_alone(tmp_path: Path) -> None:
    checkpoint = reward_trunk(tmp_path / "c", {"score.weight": normal(1, HIDDEN)}, {"num_labels": 1})
    with pytest.raises(OptionError, match="sets head_tensor, which the head sequence_classification"):
        spec_of(checkpoint, recipe_in(tmp_path, head="sequence_classification", head_tensor="score.weight"))


def test_known_heads_come_first(tmp_path: Path) -> None:
    heads = {"score.weight": normal(1, HIDDEN)}
    assert spec_of(reward_trunk(tmp_path / "c", heads, CAUSAL)).head_name == "sequence_classification"


def test_an_error_about_another_of_its_shape_names_the_recipe_field(tmp_path: Path) -> None:
    heads = {"score.weight": normal(1, HIDDEN), "aux.weight": normal(1, HIDDEN, seed=7)}
    checkpoint = reward_trunk(tmp_path / "c", heads, CAUSAL)
    with pytest.raises(CheckpointError, match=r'(?s)unexpected.*aux\.weight.*"head_tensor": "aux\.weight"'):
        spec_of(checkpoint)
    for named in heads:
        assert spec_of(checkpoint, recipe_in(tmp_path, head_tensor=named)).head.value.layers[0].name in named


def test_a_parameter_that_is_no_layer_is_not_offered(tmp_path: Path) -> None:
    checkpoint = reward_trunk(tmp_path / "c", {"reward_head": normal(1, HIDDEN)}, CAUSAL)
    with pytest.raises(UnsupportedModel, match=r"outside the backbone: .*reward_head") as raised:
        spec_of(checkpoint)
    assert "head_tensor" not in str(raised.value)


def test_hidden_layers_before_it_are_not_passed_over(tmp_path: Path) -> None:
    head = {"reward_head.0.weight": normal(HIDDEN, HIDDEN), "reward_head.2.weight": normal(1, HIDDEN)}
    with pytest.raises(CheckpointError, match=r"reward_head\.0\.weight"):
        spec_of(reward_trunk(tmp_path / "c", head, CAUSAL))


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_parity_gate(tmp_path: Path, dtype: str) -> None:
    checkpoint = reward_trunk(tmp_path / "c", {"rm_head.weight": normal(1, HIDDEN), "rm_head.bias": BIAS}, CAUSAL)
    check_gate(checkpoint, tmp_path / "bundle", dtype)
