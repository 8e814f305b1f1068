"""ONNX Runtime on NVIDIA GPUs, 16-bit: attention over pages of keys, without padding, prefixes shared by page table.

The scored tokens of the last layer attend by rows, as in `ort-cuda`. PagedAttention's window is HF's: a query sees
itself and the window - 1 tokens before it (`local_window_size - 1` is what FlashAttention gets). Its outputs for the
pages are left out, so one pair of buffers serves all layers: each writes its keys before it reads any.
"""

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from rmexport.dialects._ort_cuda_base import OrtCudaBase
from rmexport.errors import ExportError
from rmexport.graph.attention import AttentionShape
from rmexport.graph.packed import AttentionRows
from rmexport.graph.paged import PageBuffers, PageTable, declare_page_buffers
from rmexport.graph.writer import CONTRIB, GraphWriter

_HEAD_MULTIPLE = 8  # of the head sizes that the op takes
_ABSENT = 8  # optional inputs between the page table and the bounds: rotary tables, slots, sinks, norms, scales


class OrtCudaPaged(OrtCudaBase):
    """PagedAttention for all tokens."""

    NAME: ClassVar[str] = "ort-cuda-paged"
    PAGE_SIZE: ClassVar[int] = 256  # of the smallest heads

    def __init__(self, writer: GraphWriter, compute_dtype: str) -> None:
        super().__init__(writer, compute_dtype)
        self._buffers: tuple[tuple[int, int], PageBuffers] | None = None

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
        if rows.pages is None:
            return super().attention(q, k, v, rows, shape)
        slots = [self.w.op("Gather", x, rows.pages.tokens) for x in (q, k, v)]
        return self.w.op("Gather", self._attend_pages(slots, rows.pages, shape), rows.unpack_index)

    def _attend_pages(self, slots: list[ir.Value], pages: PageTable, shape: AttentionShape) -> ir.Value:
        """[A, heads * head_dim]; heads of a size that the kernel does not take are padded with zeros for the op."""
        wide = replace(shape, head_dim=-(-shape.head_dim // _HEAD_MULTIPLE) * _HEAD_MULTIPLE)
        if wide == shape:
            return self._paged_attention(slots, pages, shape)
        heads = (shape.heads, shape.kv_heads, shape.kv_heads)
        slots = [self._resized(x, n, shape.head_dim, wide.head_dim) for x, n in zip(slots, heads, strict=True)]
        return self._resized(self._paged_attention(slots, pages, wide), shape.heads, wide.head_dim, shape.head_dim)

    def _resized(self, x: ir.Value, heads: int, given: int, wanted: int) -> ir.Value:
        """[A, heads * wanted] of [A, heads * given]: as a product, which is exact; Pad's kernel has no bf16."""
        by_head = self.w.op("Reshape", x, self.w.constant(f"by_head_{given}", [-1, given]))
        resized = self.product(by_head, self.w.constant(f"eye_{wanted}_{given}", np.eye(wanted, given), self.dtype))
        return self.w.op("Reshape", resized, self.w.constant(f"flat_{heads * wanted}", [-1, heads * wanted]))

    def _paged_attention(self, slots: list[ir.Value], pages: PageTable, shape: AttentionShape) -> ir.Value:
        buffers = self._page_buffers(shape)
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
            *[None] * _ABSENT,
            pages.bounds,
            domain=CONTRIB,
            num_heads=shape.heads,
            kv_num_heads=shape.kv_heads,
            scale=shape.scale,
            **softcap,
            **window,
        )

    def _page_buffers(self, shape: AttentionShape) -> PageBuffers:
        """The one pair of all layers. Raises ExportError where layers differ in their key heads or head size."""
        key = (shape.kv_heads, shape.head_dim)
        if self._buffers is None:
            self._buffers = key, declare_page_buffers(self.w, self.page_size(shape.head_dim), *key, self.dtype)
        known, buffers = self._buffers
        if known != key:
            raise ExportError(
                f"layers have {known} and {key} key heads and features a head; one pair of pages cannot serve"
            )
        return buffers
