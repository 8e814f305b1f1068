"""cuDNN's attention through its Python frontend, without torch's: `python -m gpu.sdpa_probe [--plan NAME]`, JSON.

What a backend of our own would stand on: causal prefill of ragged sequences in bf16 without padding, and keys in pages.
Each variant says how fast it was and how far from torch's attention; one that cuDNN refuses is a result too.
"""

import argparse
import importlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from gpu.operator_probes import Ragged, Record, attempt
from gpu.plan import FULL, PLANS, Plan

PAGE = 128  # keys
WARM_UP, TRIALS = 3, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plan", choices=PLANS, default=FULL.name)
    print(json.dumps({"found": probe(PLANS[parser.parse_args().plan])}))


def probe(plan: Plan) -> list[Record]:
    """Padded through torch's cuDNN backend, then through the frontend: padded, ragged, with keys in pages, and both."""
    ragged = Ragged(plan)
    variants: dict[str, Callable[[], Record]] = {
        "torch, cuDNN, padded": partial(_torch, ragged),
        **{
            f"cuDNN, {'ragged' if packed else 'padded'} queries, keys {'in pages' if paged else 'alike'}": partial(
                _frontend, Form(ragged, packed, paged)
            )
            for packed in (False, True)
            for paged in (False, True)
        },
    }
    return [attempt(name, run) for name, run in variants.items()]


def _torch(ragged: Ragged) -> Record:
    """Heads of keys repeated as torch's own backend takes them."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    q, k, v = (_by_head(x, ragged.size) for x in ragged.padded())
    result: torch.Tensor = q

    def run() -> None:
        nonlocal result
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            result = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

    seconds = _seconds(run)
    flat = result.transpose(1, 2).reshape(len(ragged.lengths), ragged.longest, -1)
    return {"seconds": seconds, "flops": ragged.flops / seconds, "max_abs": ragged.difference(flat)}


@dataclass(frozen=True)
class Form:
    """How queries lie, `packed` or padded, and whether keys and values are in pages."""

    ragged: Ragged
    packed: bool
    paged: bool


def _frontend(form: Form) -> Record:
    """One attention as a graph of cuDNN's frontend. Raises what that raises."""
    cudnn: Any = importlib.import_module("cudnn")
    ragged, device = form.ragged, form.ragged.device
    handle = cudnn.create_handle()
    bf16 = cudnn.data_type.BFLOAT16
    graph = cudnn.pygraph(
        io_data_type=bf16, intermediate_data_type=cudnn.data_type.FLOAT, compute_data_type=cudnn.data_type.FLOAT,
        handle=handle,
    )  # fmt: skip
    lengths = torch.tensor(ragged.lengths, dtype=torch.int32, device=device).view(-1, 1, 1, 1)
    buffers: dict[Any, torch.Tensor] = {}

    def given(tensor: torch.Tensor) -> Any:
        buffers[value := graph.tensor_like(tensor)] = tensor
        return value

    q, keys, values = (given(x) for x in _inputs(form))
    q_offsets = given(_offsets(ragged, ragged.heads)) if form.packed else None
    if form.packed:
        q.set_ragged_offset(q_offsets)
    more: dict[str, Any] = {}
    if form.paged:
        table = given(_page_table(ragged))
        more = {
            "paged_attention_k_table": table, "paged_attention_v_table": table,
            "paged_attention_max_seq_len_kv": ragged.longest,
        }  # fmt: skip
    elif form.packed:
        for value in (keys, values):
            value.set_ragged_offset(given(_offsets(ragged, ragged.kv_heads)))
    seq = given(lengths)
    output, _ = graph.sdpa(
        q=q, k=keys, v=values, attn_scale=ragged.size**-0.5, generate_stats=False, diagonal_band_right_bound=0,
        use_padding_mask=True, seq_len_q=seq, seq_len_kv=seq, name="sdpa", **more,
    )  # fmt: skip
    result = torch.zeros_like(_inputs(form)[0])
    output.set_output(True).set_dim(list(result.shape)).set_stride(list(result.stride()))
    if form.packed:
        output.set_ragged_offset(q_offsets)
    buffers[output] = result
    graph.build([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
    workspace = torch.empty(graph.get_workspace_size(), device=device, dtype=torch.uint8)
    seconds = _seconds(lambda: graph.execute(buffers, workspace, handle=handle))
    return {
        "seconds": seconds, "flops": ragged.flops / seconds, "max_abs": ragged.difference(_flat(form, result)),
        "cudnn": str(cudnn.backend_version()),
    }  # fmt: skip


def _inputs(form: Form) -> list[torch.Tensor]:
    """Queries, keys and values, each [sequences, heads, longest, size] by strides, or keys and values as pages."""
    ragged = form.ragged
    padded = [_by_head(x, ragged.size) for x in ragged.padded()]
    packed = [_packed(ragged, x) for x in ragged.packed]
    queries, keys, values = packed if form.packed else padded
    return [queries, *(_pages(ragged, x) for x in padded[1:])] if form.paged else [queries, keys, values]


def _packed(ragged: Ragged, x: torch.Tensor) -> torch.Tensor:
    """Packed tokens under the shape of padded ones: offsets say where each sequence begins."""
    count, width = len(ragged.lengths), x.shape[1]
    room = x.new_zeros((count * ragged.longest, width))  # strides reach as far as padded ones
    room[: len(x)] = x
    shape = (count, width // ragged.size, ragged.longest, ragged.size)
    return room.as_strided(shape, (ragged.longest * width, ragged.size, width, 1))


def _flat(form: Form, result: torch.Tensor) -> torch.Tensor:
    """As `Ragged.difference` takes it: padded or packed."""
    ragged = form.ragged
    if form.packed:
        width = ragged.heads * ragged.size
        return result.as_strided((sum(ragged.lengths), width), (width, 1))
    return result.transpose(1, 2).reshape(len(ragged.lengths), ragged.longest, -1)


def _offsets(ragged: Ragged, heads: int) -> torch.Tensor:
    """Where each sequence begins, in elements, [sequences + 1, 1, 1, 1]."""
    starts = torch.tensor([0, *ragged.lengths], device=ragged.device).cumsum(0) * heads * ragged.size
    return starts.to(torch.int32).view(-1, 1, 1, 1)


def _pages(ragged: Ragged, x: torch.Tensor) -> torch.Tensor:
    """[pages, heads, PAGE, size] of padded [sequences, heads, longest, size]; as many pages for every sequence."""
    count, heads = x.shape[:2]
    rows = x.new_zeros((count, heads, _pages_each(ragged) * PAGE, ragged.size))
    rows[:, :, : ragged.longest] = x
    pages = rows.view(count, heads, -1, PAGE, ragged.size).transpose(1, 2)
    return pages.reshape(-1, heads, PAGE, ragged.size).contiguous()


def _page_table(ragged: Ragged) -> torch.Tensor:
    """[sequences, 1, pages of each, 1]."""
    count, each = len(ragged.lengths), _pages_each(ragged)
    return torch.arange(count * each, dtype=torch.int32, device=ragged.device).view(count, 1, each, 1)


def _pages_each(ragged: Ragged) -> int:
    return -(-ragged.longest // PAGE)


def _by_head(x: torch.Tensor, size: int) -> torch.Tensor:
    """[sequences, heads, length, size] of [sequences, length, features]."""
    return x.view(*x.shape[:2], -1, size).transpose(1, 2)


def _seconds(run: Callable[[], Any]) -> float:
    for _ in range(WARM_UP):
        run()
    _wait()
    begin = time.perf_counter()
    for _ in range(TRIALS):
        run()
    _wait()
    return (time.perf_counter() - begin) / TRIALS


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
