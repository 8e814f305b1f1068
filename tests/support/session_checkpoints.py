"""Tiny bundles whose solutions grow: heads that score steps, and heads that judge answers, over several backbones."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForTokenClassification

from backbone_shapes import BACKBONES
from family_checkpoints import family_checkpoint
from rmexport import ExportOptions, export
from tiny_checkpoints import gated, shaken
from tiny_tokenizer import build_tokenizer

_PRM = {"description": "", "unit": "step"}
RECIPES: Mapping[str, dict[str, Any]] = {
    "tagged": {
        **_PRM,
        "head": "token_logits",
        "layout": "tagged_steps",
        "tokens": ["+", "-"],
        "step_tag": " ки",
        "step_joiner": "\n",
    },
    "graded": {**_PRM, "head": "token_logits", "layout": "graded_turns", "tokens": ["+", "-"], "reply": "+"},
    "separated": {
        **_PRM,
        "head": "token_classification",
        "layout": "separated_steps",
        "step_separator": "\n",
        "template": "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}",
    },
}


def session_bundle(folder: Path, head: str, backbone: str = "llama", *, dtype: Any = "fp32", **fields: Any) -> Path:
    """A bundle in `folder`: `head` is one of RECIPES, "classifier", "labels" or "gated"; `fields` of the config."""
    recipe = None
    if head in RECIPES:
        (folder / "recipe.json").parent.mkdir(parents=True, exist_ok=True)
        (folder / "recipe.json").write_text(json.dumps({"name": head, **RECIPES[head]}))
        recipe = str(folder / "recipe.json")
        _reading(folder / "c", head, backbone, fields)
    elif head == "gated":
        gated(folder / "c")
    else:
        model_type, own = BACKBONES[backbone]
        labels = {"num_labels": 3} if head == "labels" else {}
        family_checkpoint(folder / "c", model_type, {**own, **fields, **labels})
    export(str(folder / "c"), folder / "b", ExportOptions(dtype=dtype, recipe=recipe))
    return folder / "b"


def _reading(folder: Path, head: str, backbone: str, more: dict[str, Any]) -> None:
    """A language model, or a classifier of tokens."""
    model_type, fields = BACKBONES[backbone]
    tokenizer = build_tokenizer(folder)
    own = {"vocab_size": tokenizer.vocab_size, "pad_token_id": tokenizer.pad_id, "num_labels": 2}
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
    config = AutoConfig.for_model(model_type, **{**own, **ids, **fields, **more})
    kind = AutoModelForTokenClassification if head == "separated" else AutoModelForCausalLM
    shaken(kind.from_config(config), torch.float32).save_pretrained(folder)
