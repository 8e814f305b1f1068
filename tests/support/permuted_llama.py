"""A Llama checkpoint with its dimensions in another order: the same function, other neighbours in every row.

Published 4-bit files have one scale for every 32 columns. Weights that were read from such a file are exactly what a
scheme with the same blocks can store, so its error on them says nothing. In another order, the columns of a block come
from many blocks of the file, and the error is that of any other checkpoint.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class HeadShape:
    """How many query heads and key-value heads an attention has, and the size of a head."""

    query_heads: int
    value_heads: int
    head_dim: int


def permuted_llama(tensors: Mapping[str, torch.Tensor], heads: HeadShape, seed: int = 0) -> dict[str, torch.Tensor]:
    """The tensors of a Llama, by transformers' names, with residual, inner and value dimensions permuted.

    The residual stream has one order in the whole model; each layer has an order of its inner MLP dimensions, and each
    of its key-value heads one of its values, which the output projection reads once for each query head of the group.
    Queries and keys keep theirs: rotary embedding pairs dimensions by their place. What a head reads of the residual
    stream (`score.weight`, `lm_head.weight`) is permuted with it.
    """
    generator = torch.Generator().manual_seed(seed)
    hidden = tensors["model.embed_tokens.weight"].shape[1]
    residual = torch.randperm(hidden, generator=generator)
    found = {}
    for name, tensor in tensors.items():
        writes = name.endswith(("o_proj.weight", "down_proj.weight"))  # to the residual stream: by rows
        found[name] = tensor[residual] if writes or tensor.ndim == 1 else tensor[:, residual]
    for layer in sorted(
        name.removesuffix(".mlp.up_proj.weight") for name in tensors if name.endswith("up_proj.weight")
    ):
        _permute_inner(found, f"{layer}.mlp", generator)
        _permute_values(found, f"{layer}.self_attn", heads, generator)
    return {name: tensor.contiguous() for name, tensor in found.items()}


def _permute_inner(tensors: dict[str, torch.Tensor], mlp: str, generator: torch.Generator) -> None:
    """The rows of gate and up, and the columns of down."""
    order = torch.randperm(tensors[f"{mlp}.up_proj.weight"].shape[0], generator=generator)
    for name in ("gate_proj", "up_proj"):
        tensors[f"{mlp}.{name}.weight"] = tensors[f"{mlp}.{name}.weight"][order]
    tensors[f"{mlp}.down_proj.weight"] = tensors[f"{mlp}.down_proj.weight"][:, order]


def _permute_values(
    tensors: dict[str, torch.Tensor], attention: str, heads: HeadShape, generator: torch.Generator
) -> None:
    """The rows of each key-value head's values, and the columns of the output projection that read them."""
    orders = torch.stack([torch.randperm(heads.head_dim, generator=generator) for _ in range(heads.value_heads)])
    rows = (orders + heads.head_dim * torch.arange(heads.value_heads)[:, None]).flatten()
    group = heads.query_heads // heads.value_heads  # query heads 0..group-1 read the first key-value head
    read = orders.repeat_interleave(group, dim=0)
    columns = (read + heads.head_dim * torch.arange(heads.query_heads)[:, None]).flatten()
    tensors[f"{attention}.v_proj.weight"] = tensors[f"{attention}.v_proj.weight"][rows]
    tensors[f"{attention}.o_proj.weight"] = tensors[f"{attention}.o_proj.weight"][:, columns]
