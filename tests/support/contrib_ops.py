"""ONNX Runtime's own ops in numpy, written from its documentation, for ONNX's reference implementation."""

from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

Floats = np.ndarray[Any, np.dtype[np.float32]]
UNUSED = np.empty(0, np.float32)  # statistics that only training reads


class ScaledSiLU(OpRun):
    """`z * sigmoid(z)`, z = alpha * x."""

    op_domain = "com.microsoft"

    def _run(self, x: Floats, alpha: float = 1.0) -> tuple[Floats]:
        z = alpha * x
        return (z / (1 + np.exp(-z)),)


class SkipSimplifiedLayerNormalization(OpRun):
    """The root-mean-square norm of a sum, and the sum as the fourth output."""

    op_domain = "com.microsoft"

    def _run(self, x: Floats, skip: Floats, gamma: Floats, epsilon: float = 0.0) -> tuple[Any, ...]:
        total = x + skip
        normed = gamma * total / np.sqrt(np.mean(np.square(total), axis=-1, keepdims=True) + np.float32(epsilon))
        return (normed, UNUSED, UNUSED, total)[: len(self.onnx_node.output)]


class SkipLayerNormalization(OpRun):
    """LayerNorm of a sum, and the sum as the fourth output."""

    op_domain = "com.microsoft"

    def _run(self, x: Floats, skip: Floats, gamma: Floats, beta: Floats, epsilon: float = 0.0) -> tuple[Any, ...]:
        total = x + skip
        centred = total - total.mean(axis=-1, keepdims=True)
        spread = np.sqrt(np.mean(np.square(centred), axis=-1, keepdims=True) + np.float32(epsilon))
        return (gamma * centred / spread + beta, UNUSED, UNUSED, total)[: len(self.onnx_node.output)]


class PagedAttention(OpRun):
    """Keys and values go to their pages, all of them, then every sequence's queries read what the table names.

    The pages as given are not touched: what is not written in this node must not be read, so tests give NaN. With slots
    they are: each key goes to its slot, -1 for none, and stays there.
    """

    op_domain = "com.microsoft"

    def _run(
        self,
        query: Floats,
        key: Floats,
        value: Floats,
        key_cache: Floats,
        value_cache: Floats,
        starts: Any,
        past: Any,
        table: Any,
        *rest: Any,
        num_heads: int = 0,
        kv_num_heads: int = 0,
        scale: float = 0.0,
        softcap: float = 0.0,
        local_window_size: int = -1,
    ) -> tuple[Floats]:
        bounds, places = rest[-1], rest[2] if self.onnx_node.input[10] else None
        keys, values = (x.copy() if places is None else x for x in (key_cache, value_cache))
        lengths = np.diff(starts)
        assert bounds.tolist() == [lengths.max(), (past + lengths).max()]
        if places is not None:
            for pages, rows in ((keys, key), (values, value)):
                flat, new = pages.reshape(-1, *pages.shape[2:]), rows.reshape(len(rows), kv_num_heads, -1)
                flat[places[places >= 0]] = new[places >= 0]
        for b, length in enumerate(lengths if places is None else ()):
            positions, slots = past[b] + np.arange(length), slice(starts[b], starts[b + 1])
            at = table[b, positions // keys.shape[1]], positions % keys.shape[1]
            assert np.isnan(keys[at]).all()  # a slot is written once
            keys[at], values[at] = (x[slots].reshape(length, kv_num_heads, -1) for x in (key, value))
        outputs = np.empty_like(query)
        for b, length in enumerate(lengths):
            positions, slots = past[b] + np.arange(length), slice(starts[b], starts[b + 1])
            seen = np.arange(positions[-1] + 1)
            at = table[b, seen // keys.shape[1]], seen % keys.shape[1]
            k, v = (np.repeat(x[at], num_heads // kv_num_heads, axis=1) for x in (keys, values))  # [Sk, H, D]
            scores = np.einsum("qhd,khd->hqk", query[slots].reshape(length, num_heads, -1), k) * scale
            scores = softcap * np.tanh(scores / softcap) if softcap else scores
            hidden = seen > positions[:, None]
            if local_window_size > 0:
                hidden |= seen <= positions[:, None] - local_window_size
            scores = np.where(hidden, -np.inf, scores)
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            weights /= weights.sum(axis=-1, keepdims=True)
            outputs[slots] = np.einsum("hqk,khd->qhd", weights, v).reshape(length, -1)
        return (outputs,)


CONTRIB_OPS = [ScaledSiLU, SkipSimplifiedLayerNormalization, SkipLayerNormalization, PagedAttention]
