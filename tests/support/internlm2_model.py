"""InternLM2 as its published modeling_internlm2.py computes it, in plain PyTorch, one sequence at a time.

transformers has no such class. Parameters have the published names, so that `state_dict` is the published layout.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import silu

from tiny_checkpoints import TinyCheckpoint, shaken
from tiny_tokenizer import build_tokenizer


@dataclass(frozen=True, kw_only=True)
class Internlm2Shape:
    """Fields of config.json; `factor` is that of dynamic rope_scaling, None without."""

    vocab_size: int
    hidden_size: int = 64
    intermediate_size: int = 96
    num_hidden_layers: int = 3
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-5
    rope_theta: float = 1_000_000.0
    bias: bool = False
    factor: float | None = None

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads


class RMSNorm(nn.Module):
    def __init__(self, shape: Internlm2Shape) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(shape.hidden_size)), shape.rms_norm_eps

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


class Attention(nn.Module):
    def __init__(self, shape: Internlm2Shape) -> None:
        super().__init__()
        self.shape = shape
        rows = (shape.num_attention_heads + 2 * shape.num_key_value_heads) * shape.head_dim
        self.wqkv = nn.Linear(shape.hidden_size, rows, bias=shape.bias)
        self.wo = nn.Linear(shape.num_attention_heads * shape.head_dim, shape.hidden_size, bias=shape.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[T, hidden]; wqkv's features are "(h gs d)": a key head's queries, its key, its value."""
        shape, tokens = self.shape, x.shape[0]
        group = shape.num_attention_heads // shape.num_key_value_heads
        fused = self.wqkv(x).reshape(tokens, shape.num_key_value_heads, group + 2, shape.head_dim)
        q = rotated(fused[:, :, :group].reshape(tokens, -1, shape.head_dim).transpose(0, 1), shape)
        k = rotated(fused[:, :, -2].transpose(0, 1), shape).repeat_interleave(group, 0)
        v = fused[:, :, -1].transpose(0, 1).repeat_interleave(group, 0)
        scores = q @ k.transpose(1, 2) / shape.head_dim**0.5
        scores = scores.masked_fill(torch.ones(tokens, tokens).triu(1).bool(), -torch.inf)
        return self.wo((scores.softmax(-1) @ v).transpose(0, 1).reshape(tokens, -1))


def rotated(x: Tensor, shape: Internlm2Shape) -> Tensor:
    """[heads, T, head_dim]. Dynamic scaling raises the base for sequences beyond max_position_embeddings."""
    length, dim, base = x.shape[1], shape.head_dim, shape.rope_theta
    if shape.factor is not None and length > shape.max_position_embeddings:
        stretch = shape.factor * length / shape.max_position_embeddings - (shape.factor - 1)
        base *= stretch ** (dim / (dim - 2))
    frequencies = 1.0 / base ** (torch.arange(0, dim, 2).float() / dim)
    angles = torch.outer(torch.arange(length).float(), frequencies).repeat(1, 2)
    half = torch.cat((-x[..., dim // 2 :], x[..., : dim // 2]), -1)
    return x * angles.cos() + half * angles.sin()


class FeedForward(nn.Module):
    def __init__(self, shape: Internlm2Shape) -> None:
        super().__init__()
        self.w1, self.w3 = (nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False) for _ in range(2))
        self.w2 = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(silu(self.w1(x)) * self.w3(x))


class DecoderLayer(nn.Module):
    def __init__(self, shape: Internlm2Shape) -> None:
        super().__init__()
        self.attention, self.feed_forward = Attention(shape), FeedForward(shape)
        self.attention_norm, self.ffn_norm = RMSNorm(shape), RMSNorm(shape)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.feed_forward(self.ffn_norm(x))


class Internlm2Model(nn.Module):
    def __init__(self, shape: Internlm2Shape) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(shape) for _ in range(shape.num_hidden_layers))
        self.norm = RMSNorm(shape)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tok_embeddings(ids)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


class Internlm2ForSequenceClassification(nn.Module):
    """One label, read at the last token."""

    def __init__(self, shape: Internlm2Shape) -> None:
        super().__init__()
        self.model, self.score = Internlm2Model(shape), nn.Linear(shape.hidden_size, 1, bias=False)

    def forward(self, ids: Tensor) -> SimpleNamespace:
        """`logits` [1, 1] of ids [1, T]."""
        return SimpleNamespace(logits=self.score(self.model(ids[0])[-1:]))


def internlm2_checkpoint(folder: Path, shape: Internlm2Shape) -> TinyCheckpoint:
    """In the published layout; the tokenizer says what vocab_size is."""
    tokenizer = build_tokenizer(folder)
    shape = replace(shape, vocab_size=tokenizer.vocab_size)
    model = shaken(Internlm2ForSequenceClassification(shape), torch.float32)
    save_file(model.state_dict(), folder / "model.safetensors")
    fields: dict[str, Any] = asdict(shape)
    factor = fields.pop("factor")
    scaling = None if factor is None else {"type": "dynamic", "factor": factor}
    ids = {"pad_token_id": tokenizer.pad_id, "bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
    raw = {"model_type": "internlm2", "architectures": ["InternLM2ForSequenceClassification"], "hidden_act": "silu"}
    labels = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "torch_dtype": "float32"}
    (folder / "config.json").write_text(json.dumps({**raw, **fields, **ids, **labels, "rope_scaling": scaling}))
    return TinyCheckpoint(folder, tokenizer, model)
