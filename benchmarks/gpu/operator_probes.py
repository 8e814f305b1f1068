"""The open choices of the CUDA graphs, through ONNX Runtime: `python -m gpu.operator_probes KIND`.

Every variant computes the same thing, and its largest difference from torch is printed beside its time: a fast wrong
kernel is no choice. Prints JSON.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import onnxruntime
import torch

from gpu.plan import FULL, KINDS, PLANS, Plan
from gpu.probe_graph import CONTRIB, ProbeGraph

PAGES = (128, 256)  # positions of a page: the least that FlashAttention reads at heads of 128, and at all
SDPA_KERNELS = {"FlashAttention": "1", "cuDNN": "8"}  # AttentionBackend in ONNX Runtime's attention_common.h
COPIES = 4  # of a node in one graph, so that starting a run does not count
Record = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--plan", choices=PLANS, default=FULL.name)
    arguments = parser.parse_args()
    plan = PLANS[arguments.plan]
    if plan.engine_device == "cuda":
        onnxruntime.preload_dlls()  # cuBLAS and the like lie in packages of their own
    from gpu.fp8_probes import fp8  # these use what is below
    from gpu.packed_probes import packed

    probes = dict(zip(KINDS, (linear, fused, attention, packed, fp8), strict=True))
    print(json.dumps({"found": list(probes[arguments.kind](plan))}))


def dtype_of(plan: Plan) -> torch.dtype:
    """bf16 as the bundles; ONNX Runtime has no 16-bit kernels on the CPU."""
    return torch.bfloat16 if plan.engine_device == "cuda" else torch.float32


def attempt(name: str, run: Callable[[], Record]) -> Record:
    """A variant that an engine refuses is a result too."""
    try:
        return {"variant": name, **run()}
    except Exception as error:  # onnxruntime raises classes of its own, all derived from Exception
        return {"variant": name, "message": str(error)[:500]}


def linear(plan: Plan) -> Iterator[Record]:
    """Gemm with HF's [out, in] weight against MatMul with a transposed copy; FLOP/s."""
    c, rows = plan.big.config, plan.gemm_tokens
    hidden, inner = c["hidden_size"], c["intermediate_size"]
    for inputs, outputs in ((hidden, hidden), (hidden, inner), (inner, hidden)):
        a, b = random_matrix(plan, rows, inputs), random_matrix(plan, outputs, inputs)
        for op in ("Gemm", "MatMul"):
            found = attempt(op, partial(_linear, plan, op, a, b))
            yield {"rows": rows, "in": inputs, "out": outputs, **found}


def _linear(plan: Plan, op: str, a: torch.Tensor, b: torch.Tensor) -> Record:
    graph = ProbeGraph(plan.engine_device)
    x = graph.input("x", a)
    weight = graph.input("weight", b if op == "Gemm" else b.T.contiguous())
    attributes: dict[str, Any] = {"transB": 1} if op == "Gemm" else {}
    results = []
    for _ in range(COPIES):
        [y] = graph.ops(op, [x, weight], **attributes)
        results.append(graph.output(y, torch.empty((len(a), len(b)), dtype=a.dtype, device=a.device)))
    seconds = graph.seconds() / COPIES
    flops = 2.0 * a.shape[0] * a.shape[1] * b.shape[0] / seconds
    return {"seconds": seconds, "flops": flops, "max_abs": difference(results[0], a @ b.T)}


def fused(plan: Plan) -> Iterator[Record]:
    """q, k, v and gate, up as one product with a Split behind it, against separate ones; seconds."""
    c = plan.big.config
    hidden, inner, key = c["hidden_size"], c["intermediate_size"], c["num_key_value_heads"] * plan.big.head_dim
    x = random_matrix(plan, plan.gemm_tokens, hidden)
    for name, widths, gated in (("qkv", (hidden, key, key), False), ("gate and up", (inner, inner), True)):
        weights = [random_matrix(plan, width, hidden) for width in widths]
        for kind in ("separate", "fused"):
            yield {"of": name, **attempt(kind, partial(_parts, plan, kind, x, weights, gated))}


def _parts(plan: Plan, kind: str, x: torch.Tensor, weights: list[torch.Tensor], gated: bool) -> Record:
    graph = ProbeGraph(plan.engine_device)
    source = graph.input("x", x)
    if kind == "fused":
        [y] = graph.ops("Gemm", [source, graph.input("weight", torch.cat(weights))], transB=1)
        sizes = graph.input("sizes", torch.tensor([len(w) for w in weights], dtype=torch.int64), host=True)
        parts = graph.ops("Split", [y, sizes], outputs=len(weights), axis=1)
    else:
        named = [graph.input(f"weight_{i}", w) for i, w in enumerate(weights)]
        parts = [graph.ops("Gemm", [source, weight], transB=1)[0] for weight in named]
    expected = [x @ w.T for w in weights]
    if gated:
        [sigmoid] = graph.ops("Sigmoid", [parts[0]])
        [silu] = graph.ops("Mul", [parts[0], sigmoid])
        parts, expected = graph.ops("Mul", [silu, parts[1]]), [torch.nn.functional.silu(expected[0]) * expected[1]]
    results = [graph.output(part, torch.empty_like(value)) for part, value in zip(parts, expected, strict=True)]
    seconds = graph.seconds()
    worst = max(difference(result, value) for result, value in zip(results, expected, strict=True))
    return {"seconds": seconds, "max_abs": worst}


class Ragged:
    """Sequences of seeded lengths at the big shape's heads: packed, padded on the right, and torch's own answer."""

    def __init__(self, plan: Plan) -> None:
        c, low, high = plan.big.config, *plan.ragged
        self.heads, self.kv_heads, self.size = c["num_attention_heads"], c["num_key_value_heads"], plan.big.head_dim
        self.device, self.engine_device = plan.torch_device, plan.engine_device
        torch.manual_seed(0)
        self.lengths = [int(n) for n in torch.randint(low, high + 1, (plan.attention_rows,))]
        self.longest = -(-max(self.lengths) // 16) * 16  # masks want a multiple of 4
        self.packed = [
            torch.randn((sum(self.lengths), heads * self.size), device=self.device).to(dtype_of(plan))
            for heads in (self.heads, self.kv_heads, self.kv_heads)
        ]

    @property
    def flops(self) -> float:
        """Of scores and their sums of values, causal: half of all pairs, padding not counted."""
        return 2.0 * float(self.heads) * self.size * sum(n * n for n in self.lengths)

    def padded(self) -> list[torch.Tensor]:
        """q, k and v, [sequences, longest, features]."""
        found = []
        for x in self.packed:
            rows = x.new_zeros((len(self.lengths), self.longest, x.shape[1]))
            for row, part in zip(rows, x.split(self.lengths), strict=True):
                row[: len(part)] = part
            found.append(rows)
        return found

    def page_inputs(self, graph: ProbeGraph, page: int) -> list[Any]:
        """PagedAttention's inputs after queries, keys and values: pages of keys and values, starts, past and table."""
        counts = [-(-n // page) for n in self.lengths]
        table = torch.full((len(counts), max(counts)), -1, dtype=torch.int32)
        starts = torch.tensor([0, *self.lengths]).cumsum(0).to(torch.int32)
        first = 0
        for row, count in zip(table, counts, strict=True):
            row[:count] = torch.arange(first, first + count, dtype=torch.int32)
            first += count
        pages = self.packed[0].new_zeros((first, page, self.kv_heads, self.size))
        past = torch.zeros(len(counts), dtype=torch.int32, device=self.device)
        return [
            graph.input("key_pages", pages),
            graph.input("value_pages", pages.clone()),
            graph.input("starts", starts.to(self.device)),
            graph.input("past", past),
            graph.input("table", table.clamp(min=0).to(self.device)),
        ]

    def expected(self) -> torch.Tensor:
        """[tokens, features], one sequence at a time."""
        results = []
        for parts in zip(*(x.split(self.lengths) for x in self.packed), strict=True):
            q, k, v = (part.view(len(part), -1, self.size).transpose(0, 1)[None] for part in parts)
            y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            results.append(y[0].transpose(0, 1).reshape(len(parts[0]), -1))
        return torch.cat(results)

    def difference(self, found: torch.Tensor) -> float:
        """Of padded or packed results, padding left out."""
        if found.ndim == 3:
            found = torch.cat([row[:n] for row, n in zip(found, self.lengths, strict=True)])
        return difference(found, self.expected())


def attention(plan: Plan) -> Iterator[Record]:
    """Standard Attention without a mask and with one, GroupQueryAttention, PagedAttention; one prefill each."""
    ragged = Ragged(plan)
    for name, run in VARIANTS.items():
        found = attempt(name, partial(run, ragged))
        yield {"lengths": len(ragged.lengths), "tokens": sum(ragged.lengths), **found}


def timed_attention(ragged: Ragged, graph: ProbeGraph, result: torch.Tensor) -> Record:
    seconds = graph.seconds()
    return {"seconds": seconds, "flops": ragged.flops / seconds, "max_abs": ragged.difference(result)}


def _standard(ragged: Ragged, mask: torch.Tensor | None) -> Record:
    graph = ProbeGraph(ragged.engine_device)
    padded = ragged.padded()
    inputs = [graph.input(name, x) for name, x in zip("qkv", padded, strict=True)]
    inputs += [] if mask is None else [graph.input("mask", mask)]
    [y] = graph.ops(
        "Attention", inputs, q_num_heads=ragged.heads, kv_num_heads=ragged.kv_heads, is_causal=int(mask is None)
    )
    return timed_attention(ragged, graph, graph.output(y, torch.empty_like(padded[0])))


def causal(ragged: Ragged) -> Record:
    """Right padding needs no mask: no query sees what comes after it."""
    return _standard(ragged, None)


def boolean_mask(ragged: Ragged) -> Record:
    """The same attention said by a mask, [sequences, 1, queries, keys]."""
    n = ragged.longest
    mask = torch.ones((n, n), dtype=torch.bool, device=ragged.device).tril()
    return _standard(ragged, mask.expand(len(ragged.lengths), 1, n, n).contiguous())


def additive_mask(ragged: Ragged) -> Record:
    """As what the kernel makes of booleans."""
    n, dtype = ragged.longest, ragged.packed[0].dtype
    mask = torch.full((n, n), torch.finfo(dtype).min, dtype=dtype, device=ragged.device).triu(1)
    return _standard(ragged, mask.expand(len(ragged.lengths), 1, n, n).contiguous())


def group_query(ragged: Ragged, kernel: str | None = None) -> Record:
    """Its CUDA kernel writes present keys and values whether they are wanted or not; `kernel` is the one it must take.

    Left to itself it prefers cuDNN on newer GPUs.
    """
    graph = ProbeGraph(ragged.engine_device, {} if kernel is None else {"sdpa_kernel": SDPA_KERNELS[kernel]})
    padded = ragged.padded()
    inputs: list[Any] = [graph.input(name, x) for name, x in zip("qkv", padded, strict=True)]
    last = torch.tensor(ragged.lengths, dtype=torch.int32, device=ragged.device) - 1
    total = torch.tensor(ragged.longest, dtype=torch.int32)
    inputs += [None, None, graph.input("seqlens_k", last), graph.input("total", total, host=True)]
    y, key, value = graph.ops(
        "GroupQueryAttention", inputs, outputs=3, domain=CONTRIB, num_heads=ragged.heads, kv_num_heads=ragged.kv_heads
    )
    shape = (len(ragged.lengths), ragged.kv_heads, ragged.longest, ragged.size)
    for present in (key, value):
        graph.output(present, padded[0].new_empty(shape))
    return timed_attention(ragged, graph, graph.output(y, torch.empty_like(padded[0])))


def paged(ragged: Ragged, page: int) -> Record:
    """No padding; keys and values go through pages, which no output names."""
    graph = ProbeGraph(ragged.engine_device)
    inputs: list[Any] = [graph.input(name, x) for name, x in zip("qkv", ragged.packed, strict=True)]
    inputs += [*ragged.page_inputs(graph, page), *[None] * 8]
    inputs += [graph.input("bounds", torch.tensor([max(ragged.lengths)] * 2, dtype=torch.int32), host=True)]
    [y] = graph.ops("PagedAttention", inputs, domain=CONTRIB, num_heads=ragged.heads, kv_num_heads=ragged.kv_heads)
    return timed_attention(ragged, graph, graph.output(y, torch.empty_like(ragged.packed[0])))


VARIANTS: dict[str, Callable[[Ragged], Record]] = {
    "Attention, causal without a mask": causal,
    "Attention, boolean mask": boolean_mask,
    "Attention, additive mask": additive_mask,
    "GroupQueryAttention": group_query,
    **{f"GroupQueryAttention, {kernel} pinned": partial(group_query, kernel=kernel) for kernel in SDPA_KERNELS},
    **{f"PagedAttention, pages of {page}": partial(paged, page=page) for page in PAGES},
}


def random_matrix(plan: Plan, rows: int, columns: int) -> torch.Tensor:
    return (torch.randn((rows, columns), device=plan.torch_device) * columns**-0.25).to(dtype_of(plan))


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.float() - expected.float()).abs().max())


if __name__ == "__main__":
    main()
