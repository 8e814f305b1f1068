"""ONNX Runtime on NVIDIA GPUs, 16-bit: attention over pages of keys, without padding, prefixes shared by page table.

All tokens of the last layer attend too, and the scored ones are taken of the results: a mask, which rows need, would
cost more. PagedAttention's window is HF's: a query sees itself and the window - 1 tokens before it
(`local_window_size - 1` is what FlashAttention gets). Its outputs for the pages are left out, so one pair of buffers
serves all layers: each writes its keys before it reads any. With a past each layer has a pair of its own, and the op is
told where keys are written: nowhere, for tokens that have been.
"""

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from rmexport.dialects._ort_cuda_base import OrtCudaBase
from rmexport.errors import ExportError
from rmexport.graph.attention import AttentionShape
from rmexport.graph.packed import AttentionRows
from rmexport.graph.paged import PageBuffers, PagePast, PageTable, declare_page_buffers
from rmexport.graph.writer import CONTRIB, GraphWriter

_HEAD_MULTIPLE = 8  # of the head sizes that the op takes
# Optional inputs between the page table and the bounds: two before the slots (rotary tables), five after (sinks, norms
# of queries and keys, scales of both).
_BEFORE_SLOTS, _AFTER_SLOTS = 2, 5


class OrtCudaPaged(OrtCudaBase):
    """PagedAttention for all tokens."""

    NAME: ClassVar[str] = "ort-cuda-paged"
    TAKES_PAST: ClassVar[bool] = True
    PAGE_SIZE: ClassVar[int] = 256  # of the smallest heads

    def __init__(self, writer: GraphWriter, compute_dtype: str) -> None:
        super().__init__(writer, compute_dtype)
        self._buffers: dict[int | None, tuple[AttentionShape, PageBuffers]] = {}  # by layer, None for all

    @classmethod
    def page_size(cls, head_dim: int) -> int:
        """FlashAttention's block of keys, 256 up to 64 features, 128 up to 128 and 64 above: it takes no smaller pages.

        Source: `run_mha_fwd_splitkv_dispatch` in ONNX Runtime's contrib_ops/cuda/bert/flash_attention.
        """
        return cls.PAGE_SIZE >> (head_dim > 64) >> (head_dim > 128)

    @classmethod
    def compute_dtypes(cls, bundle_dtype: str) -> tuple[str, ...]:
        """None for fp32, which the op does not have."""
        return () if bundle_dtype == "fp32" else (bundle_dtype,)

    def attention(self, q: ir.Value, k: ir.Value, v: ir.Value, rows: AttentionRows, shape: AttentionShape) -> ir.Value:
        pages = rows.pages
        assert pages is not None  # all sets of these graphs are by pages
        if pages.earlier is not None:
            attended = self._attend_with_past(q, k, v, pages, pages.earlier, shape)
        else:
            attended = self._attend_pages([self.w.op("Gather", x, pages.tokens) for x in (q, k, v)], pages, shape)
        return self.w.op("Gather", attended, rows.unpack_index)

    def _attend_pages(self, slots: list[ir.Value], pages: PageTable, shape: AttentionShape) -> ir.Value:
        """[A, heads * head_dim]; heads of a size that the kernel does not take are padded with zeros for the op."""
        wide = _as_taken(shape)
        heads = (shape.heads, shape.kv_heads, shape.kv_heads)
        slots = [self._resized(x, n, shape.head_dim, wide.head_dim) for x, n in zip(slots, heads, strict=True)]
        attended = self._paged_attention(slots, pages, self._page_buffers(wide, None), wide)
        return self._resized(attended, shape.heads, wide.head_dim, shape.head_dim)

    def _attend_with_past(
        self, q: ir.Value, k: ir.Value, v: ir.Value, pages: PageTable, earlier: PagePast, shape: AttentionShape
    ) -> ir.Value:
        """The same, where the keys of some slots are copies of what earlier passes wrote."""
        wide = _as_taken(shape)
        buffers = self._page_buffers(wide, earlier.layer)
        slots = [self._resized(self.w.op("Gather", q, earlier.queries), shape.heads, shape.head_dim, wide.head_dim)]
        flat = self.w.constant(f"flat_{wide.kv_heads * wide.head_dim}", [-1, wide.kv_heads * wide.head_dim])
        for own, held in ((k, buffers.keys), (v, buffers.values)):
            own = self._resized(own, shape.kv_heads, shape.head_dim, wide.head_dim)
            copies = self.w.op("Gather", self.w.op("Reshape", held, flat), earlier.copies)
            slots.append(self.w.op("Gather", self.w.op("Concat", own, copies, axis=0), pages.tokens))
        attended = self._paged_attention(slots, pages, buffers, wide)
        return self._resized(attended, shape.heads, wide.head_dim, shape.head_dim)

    def _resized(self, x: ir.Value, heads: int, given: int, wanted: int) -> ir.Value:
        """[., heads * wanted] of [., heads * given]: as a product, which is exact; Pad's kernel has no bf16."""
        if given == wanted:
            return x
        by_head = self.w.op("Reshape", x, self.w.constant(f"by_head_{given}", [-1, given]))
        resized = self.product(by_head, self.w.constant(f"eye_{wanted}_{given}", np.eye(wanted, given), self.dtype))
        return self.w.op("Reshape", resized, self.w.constant(f"flat_{heads * wanted}", [-1, heads * wanted]))

    def _paged_attention(
        self, slots: list[ir.Value], pages: PageTable, buffers: PageBuffers, shape: AttentionShape
    ) -> ir.Value:
        softcap: dict[str, Any] = {} if shape.softcap is None else {"softcap": shape.softcap}
        window: dict[str, Any] = {} if shape.window is None else {"local_window_size": shape.window}
        return self.w.op(
            "PagedAttention",
            *slots,
            buffers.keys,
            buffers.values,
            pages.starts,
            pages.past,
            pages.table,
            *[None] * _BEFORE_SLOTS,
            None if pages.earlier is None else pages.earlier.slots,
            *[None] * _AFTER_SLOTS,
            pages.bounds,
            domain=CONTRIB,
            num_heads=shape.heads,
            kv_num_heads=shape.kv_heads,
            scale=shape.scale,
            **softcap,
            **window,
        )

    def _page_buffers(self, shape: AttentionShape, layer: int | None) -> PageBuffers:
        """Those of a layer, or the one pair of all layers, `layer` None.

        Raises ExportError where layers that share a pair differ in their key heads or head size.
        """
        if layer not in self._buffers:
            size = self.page_size(shape.head_dim)
            made = declare_page_buffers(self.w, size, shape.kv_heads, shape.head_dim, self.dtype, layer)
            self._buffers[layer] = shape, made
        known, buffers = self._buffers[layer]
        if (known.kv_heads, known.head_dim) != (shape.kv_heads, shape.head_dim):
            raise ExportError(
                f"layers have {known.kv_heads} and {shape.kv_heads} key heads of {known.head_dim} and "
                f"{shape.head_dim} features; one pair of pages cannot serve"
            )
        return buffers


def _as_taken(shape: AttentionShape) -> AttentionShape:
    """The shape with heads of a size that the kernel takes."""
    return replace(shape, head_dim=-(-shape.head_dim // _HEAD_MULTIPLE) * _HEAD_MULTIPLE)
