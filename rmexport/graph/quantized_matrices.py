"""Quantized matrices as ONNX nodes that an engine does not expand to full size: one form per kind of engine."""

import onnx_ir as ir

from rmexport.graph.writer import CONTRIB, DATA_TYPES, GraphWriter
from rmexport.weights.quantization import BLOCK, SCALE_SUFFIX, Quantized


def dequantize_linear(w: GraphWriter, name: str, how: Quantized, dtype: str) -> ir.Value:
    """[out, in] of int8 or fp8 codes by the standard op, which no engine folds unasked."""
    codes = w.view(name, how.dtype, how.shape)
    return w.op("DequantizeLinear", codes, _scales(w, name, how, dtype, how.shape[:1]), axis=0)


def cast_and_scale(w: GraphWriter, name: str, how: Quantized, dtype: str) -> ir.Value:
    """[out, in] by Cast and Mul, which have kernels for every dtype and 4 bits; constant folding would expand it."""
    rows, columns = how.shape
    if how.scheme != "int4":
        codes = w.op("Cast", w.view(name, how.dtype, how.shape), to=DATA_TYPES[dtype])
        return w.op("Mul", codes, _scales(w, name, how, dtype, (rows, 1)))
    blocks = columns // BLOCK
    codes = w.op("Cast", w.view(name, "uint4", (rows, blocks, BLOCK)), to=DATA_TYPES[dtype])
    codes = w.op("Sub", codes, w.constant("int4_zero", 8.0, dtype))
    values = w.op("Mul", codes, _scales(w, name, how, dtype, (rows, blocks, 1)))
    return w.op("Reshape", values, w.constant(f"matrix_{rows}_{columns}", [rows, columns]))


def packed_product(
    w: GraphWriter, x: ir.Value, name: str, how: Quantized, dtype: str, bias: ir.Value | None = None
) -> ir.Value:
    """`x @ weight.T + bias` of int4 codes by ONNX Runtime's own op, which computes in the dtype of `x`."""
    rows, columns = how.shape
    return w.op(
        "MatMulNBits",
        x,
        w.view(name, "uint8", (rows, columns // BLOCK, BLOCK // 2)),
        _scales(w, name, how, dtype, (rows, columns // BLOCK)),
        *([] if bias is None else [None, None, bias]),
        domain=CONTRIB,
        K=columns,
        N=rows,
        bits=4,
        block_size=BLOCK,
    )


def _scales(w: GraphWriter, name: str, how: Quantized, dtype: str, shape: tuple[int, ...]) -> ir.Value:
    scales = w.view(name + SCALE_SUFFIX, how.scale_dtype, shape)
    return scales if how.scale_dtype == dtype else w.op("Cast", scales, to=DATA_TYPES[dtype])
