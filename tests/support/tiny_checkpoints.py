"""Random-weight checkpoints in the published layouts, small enough for every test, with the tiny tokenizer."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, LlamaModel

from tiny_tokenizer import TinyTokenizer, build_tokenizer

OBJECTIVES = ("tiny-helpful", "tiny-honest", "tiny-brief", "tiny-safe", "tiny-polite")


@dataclass(frozen=True, kw_only=True)
class TinyShape:
    """A Llama small enough to run thousands of times; `extra` goes to LlamaConfig."""

    hidden_size: int = 64
    intermediate_size: int = 96
    num_hidden_layers: int = 3
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    max_position_embeddings: int = 512
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TinyCheckpoint:
    """Folder, tokenizer, and the transformers model that wrote the backbone."""

    folder: Path
    tokenizer: TinyTokenizer
    model: Any


def sequence_classifier(
    folder: Path,
    shape: TinyShape = TinyShape(),
    *,
    labels: int = 1,
    dtype: torch.dtype = torch.float32,
    pad: bool = True,
) -> TinyCheckpoint:
    """`LlamaForSequenceClassification` as save_pretrained writes it."""
    tokenizer = build_tokenizer(folder)
    config = _config(shape, tokenizer, num_labels=labels, pad_token_id=tokenizer.pad_id if pad else None)
    model = shaken(LlamaForSequenceClassification(config), dtype)
    model.save_pretrained(folder)
    return TinyCheckpoint(folder, tokenizer, model)


def gated(
    folder: Path, shape: TinyShape = TinyShape(), *, objectives: int = 5, dtype: torch.dtype = torch.float32
) -> TinyCheckpoint:
    """ArmoRM's layout: trunk in `dtype`, heads in fp32, config with its stale torch_dtype."""
    tokenizer = build_tokenizer(folder)
    config = _config(shape, tokenizer, pad_token_id=tokenizer.pad_id)
    model = shaken(LlamaModel(config), dtype)
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= _gate_tensors(shape.hidden_size, objectives)
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "model.safetensors")
    raw = config.to_dict() | {
        "architectures": ["LlamaForRewardModelWithGating"],
        "num_objectives": objectives,
        "gating_temperature": 10,
        "gating_hidden_dim": 32,
        "gating_n_hidden": 3,
        "torch_dtype": "float32",
    }
    if objectives == len(OBJECTIVES):
        raw["objective_names"] = list(OBJECTIVES)
    (folder / "config.json").write_text(json.dumps(raw))
    return TinyCheckpoint(folder, tokenizer, model)


def causal_lm(
    folder: Path, shape: TinyShape = TinyShape(), *, tied: bool = False, dtype: torch.dtype = torch.float32
) -> TinyCheckpoint:
    """`LlamaForCausalLM`, what RLHFlow's ORM and PRM are saved as."""
    tokenizer = build_tokenizer(folder)
    model = shaken(LlamaForCausalLM(_config(shape, tokenizer, tie_word_embeddings=tied)), dtype)
    model.save_pretrained(folder)
    return TinyCheckpoint(folder, tokenizer, model)


def _config(shape: TinyShape, tokenizer: TinyTokenizer, **more: Any) -> LlamaConfig:
    fields = {k: v for k, v in vars(shape).items() if k != "extra"}
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
    return LlamaConfig(**{"vocab_size": tokenizer.vocab_size, **ids, **fields, **more, **shape.extra})


def shaken(model: Any, dtype: torch.dtype, seed: int = 0) -> Any:
    """Random norms and biases too: all-one norms hide a forgotten weight."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.add_(0.2 * noise)
            else:
                parameter.copy_(noise * (0.5 if "embed" in name else parameter.shape[-1] ** -0.5))
    return model.eval().to(dtype)


def _gate_tensors(hidden: int, objectives: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    sizes = [hidden, 32, 32, 32, objectives]
    tensors = {
        "regression_layer.weight": torch.randn(objectives, hidden, generator=generator) * 0.1,
        "reward_transform_matrix": torch.eye(objectives)
        - 0.1 * torch.rand(objectives, objectives, generator=generator),
        "gating.logit_scale": torch.tensor([1.3]),
    }
    for i, (inner, out) in enumerate(pairwise(sizes)):
        tensors[f"gating.layers.{i}.weight"] = torch.randn(out, inner, generator=generator) * (3.0 / inner**0.5)
        tensors[f"gating.layers.{i}.bias"] = torch.randn(out, generator=generator) * 0.5
    return tensors
