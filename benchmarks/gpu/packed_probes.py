"""Norms of heads and rotary embeddings before PagedAttention, or inside it; kind "packed" of `gpu.operator_probes`.

Inside, the op takes queries, keys and values as one product writes them. Our graphs have them apart: the weights of one
product would have to be neighbours in the bundle's files, and keys that a prefix cache kept are rotated already.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from gpu.operator_probes import Ragged, Record, attempt, timed_attention
from gpu.plan import Plan
from gpu.probe_graph import CONTRIB, ProbeGraph

PAGE = 128  # positions
EPSILON, BASE = 1e-6, 1e4


class Prologue(Ragged):
    """Sequences whose heads are normed and rotated before they attend."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        dtype = self.packed[0].dtype
        self.raw = self.packed
        self.weights = [torch.rand(self.size, device=self.device).add(0.5).to(dtype) for _ in range(2)]
        half = torch.arange(self.size // 2, device=self.device) / (self.size // 2)
        angles = torch.arange(self.longest, device=self.device)[:, None] * BASE ** -half[None]
        self.cos, self.sin = angles.cos().to(dtype), angles.sin().to(dtype)
        self.positions = torch.cat([torch.arange(n, device=self.device) for n in self.lengths])
        q, k, v = self.raw
        self.packed = [self._rotated(q, self.weights[0]), self._rotated(k, self.weights[1]), v]  # what is expected

    def _rotated(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        heads = x.float().view(len(x), -1, self.size)
        normed = heads * (heads.square().mean(-1, keepdim=True) + EPSILON).rsqrt() * weight.float()
        first, second = normed.chunk(2, dim=-1)
        cos, sin = (table.float()[self.positions][:, None] for table in (self.cos, self.sin))
        rotated = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
        return rotated.view(len(x), -1).to(x.dtype)


def packed(plan: Plan) -> Iterator[Record]:
    """One prefill each."""
    prologue = Prologue(plan)
    for name, run in (("norms and rotary before", _before), ("norms and rotary inside, packed", _inside)):
        found = attempt(name, partial(run, prologue))
        yield {"lengths": len(prologue.lengths), "tokens": sum(prologue.lengths), **found}


def _before(p: Prologue) -> Record:
    graph = ProbeGraph(p.engine_device)
    [axis] = [graph.input("axis", torch.zeros(1, dtype=torch.int64), host=True)]
    cos, sin = (graph.input(name, table[p.positions][None]) for name, table in (("cos", p.cos), ("sin", p.sin)))
    slots = []
    for name, x, heads, weight in zip("qk", p.raw, (p.heads, p.kv_heads), p.weights, strict=False):
        by_head = graph.input(name, x.view(len(x), heads, p.size))
        [normed] = graph.ops("RMSNormalization", [by_head, graph.input(f"{name}_norm", weight)], epsilon=EPSILON)
        flat = graph.input(f"{name}_flat", torch.tensor([1, len(x), heads * p.size]), host=True)
        [row] = graph.ops("Reshape", [normed, flat])
        [rotated] = graph.ops("RotaryEmbedding", [row, cos, sin], num_heads=heads)
        slots += graph.ops("Squeeze", [rotated, axis])
    return _attended(p, graph, [*slots, graph.input("v", p.raw[2])], [], {})


def _inside(p: Prologue) -> Record:
    graph = ProbeGraph(p.engine_device)
    tables = [graph.input("cos", p.cos), graph.input("sin", p.sin)]
    norms = [graph.input(f"{name}_norm", weight) for name, weight in zip("qk", p.weights, strict=True)]
    slots = [graph.input("qkv", torch.cat(p.raw, dim=1)), None, None]
    return _attended(p, graph, slots, [*tables, None, None, *norms], {"do_rotary": 1, "qk_norm_epsilon": EPSILON})


def _attended(p: Prologue, graph: ProbeGraph, slots: list[Any], extra: list[Any], attributes: dict[str, Any]) -> Record:
    """`extra` are the op's inputs after the table of pages."""
    inputs = [*slots, *p.page_inputs(graph, PAGE), *extra]
    inputs += [None] * (16 - len(inputs))
    inputs += [graph.input("bounds", torch.tensor([max(p.lengths)] * 2, dtype=torch.int32), host=True)]
    heads = {"num_heads": p.heads, "kv_num_heads": p.kv_heads}
    [y] = graph.ops("PagedAttention", inputs, domain=CONTRIB, **heads, **attributes)
    return timed_attention(p, graph, graph.output(y, torch.empty_like(p.raw[0])))
