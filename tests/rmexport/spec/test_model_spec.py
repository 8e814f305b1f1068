"""Checkpoints that are not what they say: one error that names everything wrong, and no bundle."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from family_checkpoints import family_checkpoint
from rmexport import CheckpointError, ExportOptions, OptionError, UnsupportedModel, export
from rmexport.checkpoint import open_checkpoint
from rmexport.errors import ExportError
from rmexport.graph.writer import GraphWriter
from rmexport.spec import read_spec
from tiny_checkpoints import causal_lm, gated, sequence_classifier


def change_config(folder: Path, **fields: Any) -> None:
    raw = json.loads((folder / "config.json").read_text())
    raw = {k: v for k, v in (raw | fields).items() if v is not ...}
    (folder / "config.json").write_text(json.dumps(raw))


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def fails(folder: Path, kind: type[Exception], *words: str, options: ExportOptions | None = None) -> None:
    """Exporting raises `kind` with all `words` in the message, and leaves nothing behind."""
    target = folder.parent / "bundle"
    with pytest.raises(kind) as caught:
        export(str(folder), target, options)
    for word in words:
        assert word in str(caught.value)
    assert sorted(p.name for p in folder.parent.iterdir()) == [folder.name]


def test_unknown_family_names_the_nearest(tmp_path: Path) -> None:
    folder = sequence_classifier(tmp_path / "c").folder
    change_config(folder, model_type="lama")
    fails(folder, UnsupportedModel, "'lama'", "nearest known one is 'llama'")


def test_unknown_head_names_the_tensors_and_the_nearest(tmp_path: Path) -> None:
    folder = sequence_classifier(tmp_path / "c").folder
    change_tensors(folder, lambda t: t.update({"reward_out.weight": t.pop("score.weight").repeat(3, 1)}))
    fails(folder, UnsupportedModel, "reward_out.weight", "LlamaForSequenceClassification", "sequence_classification")


def test_a_causal_lm_needs_a_recipe(tmp_path: Path) -> None:
    fails(causal_lm(tmp_path / "c").folder, UnsupportedModel, "--recipe", "rlhflow-orm", "rlhflow-prm")


def test_a_quantile_head_is_not_taken_for_armorm(tmp_path: Path) -> None:
    """QRM has ArmoRM's architecture string and tensor names."""
    folder = gated(tmp_path / "c").folder
    change_config(folder, num_quantiles=19)
    fails(folder, CheckpointError, "5 rows", "5 objectives of 19 quantiles")


def test_a_recipe_that_asks_for_what_the_head_does_not_know(tmp_path: Path) -> None:
    folder = sequence_classifier(tmp_path / "c").folder
    with pytest.raises(OptionError, match="sets activation, negate, which the head sequence_classification"):
        export(str(folder), tmp_path / "b", recipe_file(folder, activation="sigmoid", negate=True))
    with pytest.raises(OptionError, match="--score-label good"):
        export(str(gated(tmp_path / "g").folder), tmp_path / "b", ExportOptions(score_label="good"))


def test_all_tensor_faults_at_once(tmp_path: Path) -> None:
    folder = sequence_classifier(tmp_path / "c").folder

    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["model.layers.1.mlp.up_proj.weight"], tensors["model.norm.weight"]
        tensors["model.layers.0.self_attn.q_norm.weight"] = torch.ones(16)
        tensors["model.layers.2.self_attn.k_proj.weight"] = torch.ones(8, 64)

    change_tensors(folder, spoil)
    fails(
        folder, CheckpointError, "missing tensors (2)", "up_proj", "model.norm.weight",
        "unexpected tensors (1)", "q_norm", "wrong shapes (1)", "k_proj.weight is [8, 64], the config implies [32, 64]",
    )  # fmt: skip


FUSED = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"num_key_value_heads": 2}, ["qkv_proj.weight is [192, 64], the config implies 128 rows"]),
        ({"intermediate_size": 48}, ["gate_up_proj.weight is [192, 64], the config implies 96 rows"]),
        ({"intermediate_size": 128}, ["gate_up_proj.weight is [192, 64], row 255 is needed"]),
    ],
)
def test_fused_projections_are_read_to_their_last_row(tmp_path: Path, fields: dict[str, Any], words: list[str]) -> None:
    """Where the config says fewer heads than there are, keys and values would be taken from the queries' rows."""
    folder = family_checkpoint(tmp_path / "c", "phi3", FUSED).folder
    change_config(folder, **fields)
    fails(folder, CheckpointError, *words)


@pytest.mark.parametrize(("model_type", "expected"), [("phi3", 32_000), ("olmo2", 1), ("llama", None), ("gemma2", 0)])
def test_a_pad_id_that_only_transformers_knows(tmp_path: Path, model_type: str, expected: int | None) -> None:
    """Where config.json says nothing, transformers' pooling skips what its own config class takes for padding."""
    folder = family_checkpoint(tmp_path / "c", model_type, FUSED | {"head_dim": 16}).folder
    change_config(folder, pad_token_id=...)
    assert AutoConfig.from_pretrained(folder).pad_token_id == expected
    rule = read_spec(open_checkpoint(str(folder)), ExportOptions()).head.positions["score"]
    assert (rule.rule, rule.pad_id) == (("last", None) if expected is None else ("last_not_pad", expected))


def test_a_constant_has_one_value() -> None:
    writer = GraphWriter(None)
    assert writer.constant("base", [1, 2]) is writer.constant("base", [1, 2])
    with pytest.raises(ExportError, match="constant base has two values"):
        writer.constant("base", [1, 3])


def test_config_that_belongs_to_other_weights(tmp_path: Path) -> None:
    folder = sequence_classifier(tmp_path / "c").folder
    change_config(folder, num_hidden_layers=4)
    fails(folder, CheckpointError, "missing tensors (9)", "model.layers.3.")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"hidden_size": ...}, ["hidden_size"]),
        ({"num_attention_heads": "four"}, ["num_attention_heads", "'four'"]),
        ({"rms_norm_eps": None}, ["rms_norm_eps"]),
        ({"attention_bias": 1}, ["attention_bias"]),
        ({"num_attention_heads": 5}, ["num_attention_heads is 5", "multiple of num_key_value_heads, 2"]),
    ],
)
def test_bad_config_fields(tmp_path: Path, fields: dict[str, Any], words: list[str]) -> None:
    folder = sequence_classifier(tmp_path / "c").folder
    change_config(folder, **fields)
    fails(folder, CheckpointError, *words)


def test_other_activation(tmp_path: Path) -> None:
    folder = sequence_classifier(tmp_path / "c").folder
    change_config(folder, hidden_act="relu")
    fails(folder, UnsupportedModel, "'relu'", "silu")


def test_attention_to_both_sides(tmp_path: Path) -> None:
    """What transformers 5 makes of `is_causal` in any decoder's config."""
    folder = sequence_classifier(tmp_path / "c").folder
    change_config(folder, is_causal=False)
    fails(folder, UnsupportedModel, "is_causal is false", "causal attention")


def test_unknown_rope_kind(tmp_path: Path) -> None:
    folder = sequence_classifier(tmp_path / "c").folder
    change_config(folder, rope_parameters=..., rope_theta=1e4, rope_scaling={"rope_type": "helical", "factor": 2.0})
    fails(folder, UnsupportedModel, "helical", "llama3")


def test_old_rotary_buffers_are_no_unexpected_tensors(tmp_path: Path) -> None:
    folder = sequence_classifier(tmp_path / "c").folder
    change_tensors(folder, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}))
    export(str(folder), tmp_path / "bundle")


def test_a_gate_whose_layers_do_not_fit(tmp_path: Path) -> None:
    folder = gated(tmp_path / "c").folder
    change_tensors(folder, lambda t: t.update({"gating.layers.2.weight": torch.ones(32, 31)}))
    fails(folder, CheckpointError, "gating.layers.2.weight", "[*, 32]")


def test_template_without_an_assistant_turn(tmp_path: Path) -> None:
    folder = sequence_classifier(tmp_path / "c").folder
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    )
    fails(folder, CheckpointError, "assistant")


def test_unknown_score_label_names_the_labels(tmp_path: Path) -> None:
    folder = sequence_classifier(tmp_path / "c", labels=2).folder
    fails(folder, OptionError, "'good'", "label_0, label_1", options=ExportOptions(score_label="good"))


def test_several_labels_without_a_score(tmp_path: Path) -> None:
    folder = sequence_classifier(tmp_path / "c", labels=3).folder
    change_config(folder, id2label={"0": "bad", "1": "fair", "2": "good"})
    spec = read_spec(open_checkpoint(str(folder)), ExportOptions())
    assert spec.head.score is None
    assert [o.labels for o in spec.head.outputs] == [("bad", "fair", "good")]
    assert any("--score-label" in note for note in spec.notes)


def test_auto_dtype_follows_the_bytes_and_not_the_config(tmp_path: Path) -> None:
    """ArmoRM's config says float32 over bf16 tensors."""
    folder = gated(tmp_path / "c", dtype=torch.bfloat16).folder
    assert json.loads((folder / "config.json").read_text())["torch_dtype"] == "float32"
    spec = read_spec(open_checkpoint(str(folder)), ExportOptions())
    assert spec.dtype == "bf16"
    kept = {s.name: s.dtype for s in spec.weights}
    assert kept["gating.layers.0.weight"] == kept["regression_layer.weight"] == "fp32"
    assert kept["model.layers.0.mlp.up_proj.weight"] == "bf16"


def test_published_token_ids_are_asserted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tokenizer with the published BOS id must tokenize what scoring code hard-codes as published."""
    checkpoint = gated(tmp_path / "c")
    monkeypatch.setattr(
        "rmexport.prompt.template_probe._LLAMA3_MARK", ("<|begin_of_text|>", checkpoint.tokenizer.bos_id)
    )
    fails(checkpoint.folder, CheckpointError, "128009, 128006, 78191, 128007, 271", "not the published one")


def recipe_file(folder: Path, **fields: Any) -> ExportOptions:
    path = folder.parent / "recipe.json"
    path.write_text(json.dumps({"name": "mine", "description": "d", **fields}))
    return ExportOptions(recipe=str(path))


@pytest.mark.parametrize(
    ("fields", "kind", "words"),
    [
        ({"head": "nope"}, OptionError, ["'nope'", "sequence_classification"]),
        ({"head": "sequence_classification"}, UnsupportedModel, ["'mine'", "score.weight"]),
        ({"head": "gated_objectives"}, UnsupportedModel, ["'mine'", "regression_layer.weight"]),
        ({"head": "token_logits"}, UnsupportedModel, ["one or two tokens"]),
    ],
)
def test_recipes_that_do_not_fit(
    tmp_path: Path, fields: dict[str, Any], kind: type[Exception], words: list[str]
) -> None:
    folder = causal_lm(tmp_path / "c").folder
    with pytest.raises(kind) as caught:
        export(str(folder), tmp_path / "b", recipe_file(folder, **fields))
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    "fields",
    [
        {"layout": "graded_turns"},
        {"unit": "step"},
        {"layout": "separated_steps", "step_separator": "\n", "position": "last_not_pad"},
        {"tokens": ["+", "-"], "token_ids": [1, 2]},
        {"token_ids": [-1]},
    ],
)
def test_recipes_that_contradict_themselves(tmp_path: Path, fields: dict[str, Any]) -> None:
    folder = sequence_classifier(tmp_path / "c").folder
    with pytest.raises(OptionError, match=r"recipe"):
        export(str(folder), tmp_path / "b", recipe_file(folder, head="sequence_classification", **fields))
    assert not (tmp_path / "b").exists()


def test_options_are_checked_at_the_door() -> None:
    with pytest.raises(OptionError, match="'fp8', expected one of auto, bf16, fp16, fp32"):
        ExportOptions(dtype="fp8")  # type: ignore[arg-type] # that is the point
