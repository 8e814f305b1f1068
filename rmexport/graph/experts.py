"""Routed experts: each token's MLP is the weighted sum of a few out of many, and no more than those are computed.

Tokens are laid out expert by expert in blocks of equal size, and a scan runs over the blocks, each with the weights of
its one expert. The blocks' size is the one that is estimated to take least time with the tokens at hand. Every step is
an ordinary op on shapes that are known when it runs, so that every engine can do it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from rmexport.checkpoint.derived_tensors import TensorStack
from rmexport.errors import CheckpointError
from rmexport.graph.decoder_writer import Activation, DecoderWriter
from rmexport.graph.writer import DATA_TYPES, Slice

BLOCK_SIZES = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)  # multiples of what matrix kernels take at once
READ_ROWS = 72  # rows whose products take as long as reading an expert's weights; fitted on two cores with AMX


@dataclass(frozen=True, kw_only=True)
class Experts:
    """`count` experts of `inner_size` features inside, `chosen` of them for each token by the router's softmax.

    `normalized`: the chosen experts' probabilities are divided by their sum. Raises CheckpointError where more are
    chosen than there are.
    """

    count: int
    chosen: int
    hidden_size: int
    inner_size: int
    normalized: bool
    activation: Activation = "silu"

    def __post_init__(self) -> None:
        if self.chosen > self.count:
            raise CheckpointError(
                f"config.json: num_experts_per_tok is {self.chosen}, expected at most {self.count}, all the experts"
            )


@dataclass(frozen=True)
class _Blocks:
    """`source` [blocks, rows]: the token in each place; `expert` [blocks]; `place` [T, chosen]: each slot's place."""

    source: ir.Value
    expert: ir.Value
    place: ir.Value


def stacked_experts(layer: str, names: Mapping[str, str], count: int) -> dict[str, TensorStack]:
    """The stacked weights of a layer's experts, made of a checkpoint that has one tensor per expert.

    `names`: after `layer`, the stack's name and its tensors' with {} for the expert's number.

    >>> names = {"up_proj.weight": "experts.{}.up_proj.weight"}
    >>> stacked_experts("model.layers.0.mlp", names, 2)["model.layers.0.mlp.up_proj.weight"].sources
    ('model.layers.0.mlp.experts.0.up_proj.weight', 'model.layers.0.mlp.experts.1.up_proj.weight')
    """
    return {
        f"{layer}.{own}": TensorStack(sources=tuple(f"{layer}.{theirs.format(i)}" for i in range(count)))
        for own, theirs in names.items()
    }


def routed_experts(d: DecoderWriter, y: ir.Value, router: str, name: str, e: Experts) -> ir.Value:
    """The routed MLP of `y` [T, hidden] in the compute dtype, as transformers' MixtralSparseMoeBlock computes it.

    `router` names the routing weight without `.weight`; `{name}.gate_proj`, `.up_proj` [experts, inner, hidden] and
    `.down_proj` [experts, hidden, inner] are the experts' weights. Routing is fp32: nearly equal experts are told apart
    as well as they can be.
    """
    shares, chosen = _route(d, y, router, e)
    blocks = _blocks(d, chosen, e)
    computed = _compute(d, y, blocks, name, e)
    return _mix(d, computed, blocks.place, shares, e)


def _route(d: DecoderWriter, y: ir.Value, router: str, e: Experts) -> tuple[ir.Value, ir.Value]:
    """Shares and numbers of the chosen experts, [T, chosen] each.

    Shares that are divided by their sum are the softmax of the chosen experts' logits alone. Not a division: OpenVINO
    multiplies by the inverse instead, except where shapes depend on it, as they do in every layer with experts but a
    graph's last. So that layer would round otherwise at the end of a stage than in the whole graph.
    """
    w = d.w
    logits = d.w.fp32_linear(d.to_fp32(y), router, (e.count, e.hidden_size))
    ranked = logits if e.normalized else w.op("Softmax", logits, axis=-1)
    top, chosen = w.ops("TopK", ranked, w.constant("chosen", [e.chosen]), outputs=2, axis=-1)
    return (w.op("Softmax", top, axis=-1) if e.normalized else top), chosen


def _blocks(d: DecoderWriter, chosen: ir.Value, e: Experts) -> _Blocks:
    """A slot's place is its expert's first block's, plus its rank among that expert's slots."""
    w, axis0, axis1 = d.w, d.w.constant("axes_0", [0]), d.w.constant("axes_1", [1])
    flat = w.op("Reshape", chosen, w.constant("rest", [-1]))  # [S]
    numbers = w.constant("experts", np.arange(e.count)[None])
    taken = w.op("Cast", w.op("Equal", w.op("Unsqueeze", flat, axis1), numbers), to=DATA_TYPES["int64"])  # [S, E]
    upto = w.op("CumSum", taken, w.constant("axis_0", 0))
    own = w.op("GatherElements", upto, w.op("Unsqueeze", flat, axis1), axis=1)
    rank = w.op("Sub", w.op("Squeeze", own, axis1), _one(d))
    counts = w.op("ReduceSum", taken, axis0, keepdims=0)  # [E]
    rows = _block_rows(d, counts)
    blocks = w.op("Div", w.op("Add", counts, w.op("Sub", rows, _one(d))), rows)
    ends = w.op("CumSum", blocks, w.constant("axis_0", 0))
    starts = w.op("Mul", w.op("Sub", ends, blocks), rows)
    place = w.op("Add", w.op("Gather", starts, flat), rank)  # [S]
    total = w.op("Gather", ends, w.constant("last_expert", e.count - 1))  # ends never fall
    block_numbers = w.op("Range", w.constant("range_begin", 0), total, w.constant("range_step", 1))
    before = w.op("GreaterOrEqual", w.op("Unsqueeze", block_numbers, axis1), w.op("Unsqueeze", ends, axis0))
    expert = w.op("ReduceSum", w.op("Cast", before, to=DATA_TYPES["int64"]), axis1, keepdims=0)
    return _Blocks(
        _sources(d, place, total, rows, e), expert, w.op("Reshape", place, w.constant("by_choice", [-1, e.chosen]))
    )


def _block_rows(d: DecoderWriter, counts: ir.Value) -> ir.Value:
    """Rows of a block, [], of all sizes the one that costs least: many small blocks read weights, large ones idle."""
    w, axis1 = d.w, d.w.constant("axes_1", [1])
    sizes = w.constant("block_sizes", BLOCK_SIZES)
    column = w.op("Unsqueeze", sizes, axis1)
    filled = w.op("Add", w.op("Unsqueeze", counts, d.w.constant("axes_0", [0])), w.op("Sub", column, _one(d)))
    blocks = w.op("ReduceSum", w.op("Div", filled, column), axis1, keepdims=0)  # of each size, over all experts
    cost = w.op("Mul", blocks, w.op("Add", sizes, w.constant("read_rows", READ_ROWS)))
    cheapest = w.op("ArgMin", w.op("Cast", cost, to=DATA_TYPES["fp32"]), axis=0, keepdims=0)
    return w.op("Gather", sizes, cheapest)


def _one(d: DecoderWriter) -> ir.Value:
    return d.w.constant("one_slot", 1)


def _sources(d: DecoderWriter, place: ir.Value, total: ir.Value, rows: ir.Value, e: Experts) -> ir.Value:
    """[blocks, rows]: the token in each place; token 0 in unused places, whose results are not used."""
    w, axis0 = d.w, d.w.constant("axes_0", [0])
    shape = w.op("Concat", w.op("Unsqueeze", total, axis0), w.op("Unsqueeze", rows, axis0), axis=0)
    empty = w.op("Expand", w.constant("token_0", [0]), w.op("Unsqueeze", w.op("Mul", total, rows), axis0))
    slots = w.op("Range", w.constant("range_begin", 0), w.op("Size", place), w.constant("range_step", 1))
    tokens = w.op("Div", slots, w.constant("n_chosen", e.chosen))
    return w.op("Reshape", w.op("ScatterElements", empty, place, tokens, axis=0), shape)


def _compute(d: DecoderWriter, y: ir.Value, blocks: _Blocks, name: str, e: Experts) -> ir.Value:
    """[places, hidden]: every block through its expert."""
    inner, outer = (e.count, e.inner_size, e.hidden_size), (e.count, e.hidden_size, e.inner_size)

    def block(rows: ir.Value, expert: ir.Value) -> tuple[ir.Value]:
        gate, up = (d.expert_product(rows, f"{name}.{part}", inner, expert) for part in ("gate_proj", "up_proj"))
        return (d.expert_product(d.gated(gate, up, e.activation), f"{name}.down_proj", outer, expert),)

    slices = [Slice([None, e.hidden_size], d.dtype), Slice([], "int64")]
    [computed] = d.w.scan(block, [d.w.op("Gather", y, blocks.source), blocks.expert], slices)
    return d.w.op("Reshape", computed, d.w.constant(f"flat_{e.hidden_size}", [-1, e.hidden_size]))


def _mix(d: DecoderWriter, computed: ir.Value, place: ir.Value, shares: ir.Value, e: Experts) -> ir.Value:
    """The weighted sum in fp32, added up in one fixed order."""
    mixed: ir.Value | None = None
    for i in range(e.chosen):
        at = d.w.constant(f"choice_{i}", i)
        share = d.w.op("Unsqueeze", d.w.op("Gather", shares, at, axis=1), d.w.constant("axes_1", [1]))
        part = d.to_fp32(d.w.op("Gather", computed, d.w.op("Gather", place, at, axis=1)))
        part = d.w.op("Mul", part, share)
        mixed = part if mixed is None else d.w.op("Add", mixed, part)
    assert mixed is not None  # some expert is chosen
    return d.from_fp32(mixed)
