"""Gemma 2 in every engine: softcap, alternating windows, four norms a layer, its own scale of attention scores."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from config_files import rewrite_config
from conversations import messages_of, ragged_records
from family_checkpoints import check_parity_gate, check_scores, command_scores, family_checkpoint
from rmexport import CheckpointError, ExportOptions, UnsupportedModel, export
from tiny_checkpoints import TinyCheckpoint, shaken
from tiny_tokenizer import build_tokenizer

TINY: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "query_pre_attn_scalar": 5,  # scores large enough for the cap to bend them
    "attn_logit_softcapping": 2.0,
    "final_logit_softcapping": 0.1,  # below the scores: it must not touch them
    "sliding_window": 24,
    "max_position_embeddings": 2048,
}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"attn_logit_softcapping": None, "layer_types": ["full_attention", "full_attention", "sliding_attention"]},
        {"attention_bias": True},
    ],
)
def test_scores(tmp_path: Path, fields: dict[str, Any]) -> None:
    check_scores(family_checkpoint(tmp_path / "c", "gemma2", TINY | fields), tmp_path / "b")


@pytest.mark.ladder
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_parity_gate(tmp_path: Path, dtype: str) -> None:
    check_parity_gate(family_checkpoint(tmp_path / "c", "gemma2", TINY), tmp_path / "b", dtype)


def test_published_spelling(tmp_path: Path) -> None:
    """No layer types: every other layer slides, the first one too. `hidden_act` stands beside `hidden_activation`."""
    checkpoint = family_checkpoint(tmp_path / "c", "gemma2", TINY)
    old = {"rope_theta": 10_000.0, "hidden_act": "gelu_pytorch_tanh", "cache_implementation": "hybrid"}
    rewrite_config(checkpoint, old, without=("rope_parameters", "layer_types"))
    check_scores(checkpoint, tmp_path / "b")


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"hidden_activation": "gelu"}, UnsupportedModel, "hidden_activation is 'gelu'"),
        ({"use_bidirectional_attention": True}, UnsupportedModel, "supported with causal attention"),
        ({"sliding_window": None}, CheckpointError, "lacks 'sliding_window'"),
    ],
)
def test_refusals(tmp_path: Path, fields: dict[str, Any], error: type[Exception], message: str) -> None:
    checkpoint = family_checkpoint(tmp_path / "c", "gemma2", TINY)
    rewrite_config(checkpoint, fields)
    with pytest.raises(error, match=message):
        export(str(checkpoint.folder), tmp_path / "b", ExportOptions())


def test_a_causal_lm_keeps_its_last_softcap(tmp_path: Path) -> None:
    """Tied as Gemma is where config.json does not say; Gemma2ForCausalLM bounds logits, a classifier does not."""
    tokenizer = build_tokenizer(tmp_path / "c")
    config = AutoConfig.for_model("gemma2", **TINY | {"final_logit_softcapping": 0.5}, vocab_size=tokenizer.vocab_size)
    model = shaken(AutoModelForCausalLM.from_config(config), torch.float32)
    model.save_pretrained(tmp_path / "c")
    rewrite_config(TinyCheckpoint(tmp_path / "c", tokenizer, model), {}, without=["tie_word_embeddings"])
    recipe = tmp_path / "row.json"
    recipe.write_text(json.dumps({"name": "row", "description": "d", "head": "token_logits", "token_ids": [7]}))
    export(str(tmp_path / "c"), tmp_path / "b", ExportOptions(recipe=str(recipe)))
    records = ragged_records(5)
    found = command_scores(tmp_path / "b", records, "ort-cpu")
    for record, score in zip(records, found, strict=True):
        ids = AutoTokenizer.from_pretrained(tmp_path / "c").apply_chat_template(messages_of(record))
        ids = ids if isinstance(ids, list) else ids["input_ids"]
        with torch.no_grad():
            assert score == pytest.approx(model(torch.tensor([ids])).logits[0, -1, 7].item(), abs=1e-4)
    assert max(map(abs, found)) > 0.1
