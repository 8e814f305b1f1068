"""`v_head.summary`: TRL's linear layer, GRM's layers with ReLU, LLaMA-Factory's side file, Skywork-o1's steps."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from conversations import step_records
from rmexport import ExportOptions, export
from rmexport.errors import CheckpointError
from rmruntime import RewardModel, Score
from tiny_checkpoints import sequence_classifier

Tensors = Mapping[str, torch.Tensor]
TRL = {"architectures": ["LlamaForCausalLM"]}
GRM = {"architectures": ["LlamaForCausalLM"], "vhead_layer_type": "mlp", "vhead_num_neurons": 48}


def last(ids: list[int]) -> dict[str, int]:
    return {"score": len(ids) - 1}


def published_linear(read: Tensors, w: Tensors) -> dict[str, torch.Tensor]:
    return {"score": torch.nn.functional.linear(read["score"], w["v_head.summary.weight"], w["v_head.summary.bias"])[0]}


def published_layers(read: Tensors, w: Tensors) -> dict[str, torch.Tensor]:
    x, count = read["score"], len(w) // 2
    for i in range(count):
        x = torch.nn.functional.linear(x, w[f"v_head.summary.{2 * i}.weight"], w[f"v_head.summary.{2 * i}.bias"])
        x = torch.relu(x) if i < count - 1 else x
    return {"score": x[0]}


def test_trl(tmp_path: Path, headed: Any, linear: Any) -> None:
    """AutoModelForCausalLMWithValueHead: the causal LM's own head is left out."""
    lm_head = {"lm_head.weight": torch.zeros(8, 64)}
    checkpoint = headed(tmp_path / "checkpoint", linear("v_head.summary", 1, 64, 0), TRL, beside=lm_head)
    checkpoint.assert_scores_follow(tmp_path / "bundle", last, published_linear)


def test_trl_under_the_wrappers_prefix(tmp_path: Path, headed: Any, linear: Any) -> None:
    """Saved as a module, the wrapper's state dict has everything but its head under `pretrained_model.`."""
    lm_head = {"pretrained_model.lm_head.weight": torch.zeros(8, 64)}
    head = linear("v_head.summary", 1, 64, 0)
    checkpoint = headed(tmp_path / "c", head, TRL, prefix="pretrained_model.model.", beside=lm_head)
    assert checkpoint.spec().head_name == "value_head"


def test_llama_factory_keeps_its_value_head_in_a_side_file(tmp_path: Path, headed: Any, linear: Any) -> None:
    checkpoint = headed(tmp_path / "checkpoint", {}, TRL, beside={"lm_head.weight": torch.zeros(8, 64)})
    head = linear("v_head.summary", 1, 64, 0)
    save_file(head, checkpoint.folder / "value_head.safetensors")
    found = type(checkpoint)(checkpoint.folder, checkpoint.checkpoint, head)
    found.assert_scores_follow(tmp_path / "bundle", last, published_linear)


@pytest.mark.parametrize("hidden_layers", [1, 2])
def test_grm(tmp_path: Path, headed: Any, linear: Any, hidden_layers: int) -> None:
    """`summary.0`, `summary.2`, ...: `vhead_num_layers` layers of `vhead_num_neurons`, then one output."""
    head = linear("v_head.summary.0", 48, 64, 0)
    for i in range(1, hidden_layers):
        head |= linear(f"v_head.summary.{2 * i}", 48, 48, i)
    head |= linear(f"v_head.summary.{2 * hidden_layers}", 1, 48, 5)
    checkpoint = headed(tmp_path / "checkpoint", head, GRM)
    checkpoint.assert_scores_follow(tmp_path / "bundle", last, published_layers)


def test_grm_on_gemma2(tmp_path: Path, headed: Any, linear: Any, gemma2: Any) -> None:
    head = linear("v_head.summary.0", 48, 64, 0) | linear("v_head.summary.2", 1, 48, 1)
    checkpoint = headed(tmp_path / "checkpoint", head, GRM, trunk=gemma2)
    checkpoint.assert_scores_follow(tmp_path / "bundle", last, published_layers)


def test_grm_of_more_than_ten_modules_is_in_numeric_order(tmp_path: Path, headed: Any, linear: Any) -> None:
    head = {name: value for i in range(6) for name, value in linear(f"v_head.summary.{2 * i}", 64, 64, i).items()}
    spec = headed(tmp_path / "c", head | linear("v_head.summary.12", 1, 64, 9), GRM).spec()
    assert [layer.name.rpartition(".")[2] for layer in spec.head.value.layers] == [
        *("0", "2", "4", "6", "8", "10", "12")
    ]


def test_stale_vhead_fields_do_not_make_a_value_head(tmp_path: Path) -> None:
    """GRM-*-rewardmodel-ft has a plain `score` and config fields left over from its sftreg sibling."""
    folder = sequence_classifier(tmp_path / "c").folder
    config = folder / "config.json"
    config.write_text(config.read_text().replace("{", '{"vhead_layer_type": "mlp", "vhead_num_neurons": 1024,', 1))
    assert export(str(folder), tmp_path / "b").head == "sequence_classification"


def test_fields_that_contradict_the_tensors_are_not_asked(tmp_path: Path, headed: Any, linear: Any) -> None:
    head = linear("v_head.summary", 1, 64, 0)
    checkpoint = headed(tmp_path / "checkpoint", head, TRL | {"vhead_layer_type": "mlp"})
    assert len(checkpoint.spec().head.value.layers) == 1


def test_says_that_steps_need_a_recipe(tmp_path: Path, headed: Any, linear: Any) -> None:
    checkpoint = headed(tmp_path / "c", linear("v_head.summary", 1, 64, 0), TRL)
    assert any("skywork-o1-prm" in note for note in checkpoint.spec().notes)
    assert not any("skywork-o1-prm" in note for note in checkpoint.spec("skywork-o1-prm").notes)


def test_more_than_one_value(tmp_path: Path, headed: Any, linear: Any) -> None:
    with pytest.raises(CheckpointError, match="2 rows, expected 1"):
        headed(tmp_path / "c", linear("v_head.summary", 2, 64, 0), TRL).spec()


def test_skywork_o1_reads_every_step(tmp_path: Path, headed: Any, linear: Any, qwen2: Any) -> None:
    """`prepare_input`: bos + problem + line end, then every step and the line end's token, each tokenized alone."""
    head = linear("v_head.summary", 1, 64, 0)
    checkpoint = headed(tmp_path / "c", head, {}, trunk=qwen2, beside={"lm_head.weight": torch.zeros(8, 64)})
    export(str(checkpoint.folder), tmp_path / "bundle", ExportOptions(recipe="skywork-o1-prm"))
    records = [{"prompt": r["prompt"], "steps": [s.replace("\n", " ") for s in r["steps"]]} for r in step_records(17)]
    tokenizer, spec = checkpoint.tokenizer, checkpoint.spec("skywork-o1-prm")

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False))

    with RewardModel.load(tmp_path / "bundle", device="ort-cpu") as model:
        for count in (1, 3, 8, 17):
            for record, score in zip(records[:count], model.score(records[:count]), strict=True):
                ids, ends = encode(tokenizer.bos_token + record["prompt"] + "\n"), []
                for step in record["steps"]:
                    ids += [*encode(step), encode("\n")[-1]]
                    ends.append(len(ids) - 1)
                states = checkpoint.hidden(ids)[ends]
                values = torch.nn.functional.linear(states, head["v_head.summary.weight"], head["v_head.summary.bias"])
                assert isinstance(score, Score) and score.steps is not None and score.step_logits is not None
                np.testing.assert_allclose(score.steps, torch.sigmoid(values[:, 0]), atol=1e-4)
                np.testing.assert_allclose(score.step_logits, values[:, 0], atol=1e-4)
                own = checkpoint.reference(spec, {"score": states})
                torch.testing.assert_close(own["score"], torch.sigmoid(values[:, 0]))
                torch.testing.assert_close(own["logit"], values[:, 0])


@pytest.mark.ladder
@pytest.mark.parametrize("recipe", [None, "skywork-o1-prm"])
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_passes_the_parity_gate(tmp_path: Path, headed: Any, linear: Any, dtype: str, recipe: str | None) -> None:
    checkpoint = headed(tmp_path / "checkpoint", linear("v_head.summary", 1, 64, 0), TRL)
    checkpoint.assert_gate_passes(tmp_path / "bundle", dtype, recipe)


def test_dropout_heads(tmp_path: Path, headed: Any, linear: Any) -> None:
    """The value head's dropout is for training alone: no probability of it changes a score."""
    head = linear("v_head.summary", 1, 64, 0)
    checkpoint = headed(tmp_path / "checkpoint", head, TRL | {"summary_dropout_prob": 0.9})
    checkpoint.assert_scores_follow(tmp_path / "bundle", last, published_linear)
