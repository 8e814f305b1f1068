"""Whether onnxruntime's CUDA provider loads and computes here: `python -m gpu.provider_check`, JSON.

One product in bf16, compared with the same on the host in fp32: a library of which the GPU's code is missing loads, and
says "no kernel image" when its first kernel starts. torch is not imported, which would load CUDA's libraries for it.
"""

import json
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime

OPSET, IR_VERSION = 21, 10  # of a graph with products in bf16
CUDA = "CUDAExecutionProvider"
ROWS, WIDTH = 256, 128
TOLERANCE = 0.05  # of products of unit normals over 128 terms, scaled to unit variance, rounded to bf16


def main() -> None:
    print(json.dumps(check()))


def check() -> dict[str, Any]:
    """`passed` and, where it did not, `message`."""
    found: dict[str, Any] = {"onnxruntime": onnxruntime.__version__, "file": onnxruntime.__file__, "passed": False}
    if CUDA not in onnxruntime.get_available_providers():
        return found | {
            "message": f"this onnxruntime was built without {CUDA}; put the unpacked wheel first on the path"
        }
    try:
        onnxruntime.preload_dlls()
        difference = _difference()
    except Exception as error:  # onnxruntime raises classes of its own, all derived from Exception
        return found | {"message": str(error)[:2000]}
    return found | {"max_abs": difference, "passed": difference <= TOLERANCE}


def _difference() -> float:
    """The largest difference of a product on the GPU from numpy's."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((ROWS, WIDTH), np.float32)
    w = rng.standard_normal((WIDTH, WIDTH), np.float32) / np.float32(WIDTH**0.5)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = onnxruntime.InferenceSession(_model(), options, providers=[CUDA])
    if session.get_providers()[0] != CUDA:
        raise RuntimeError(f"{CUDA} cannot be loaded; onnxruntime took {session.get_providers()[0]}")
    [y] = session.run(None, {"x": x, "w": w})
    return float(np.abs(y - x @ w.T).max())


def _model() -> bytes:
    """x @ w.T in bf16 of fp32 inputs."""
    x, w = (ir.Value(name=n, shape=ir.Shape(s), type=ir.TensorType(ir.DataType.FLOAT)) for n, s in _SHAPES.items())
    narrow = [ir.node("Cast", [value], {"to": ir.DataType.BFLOAT16}) for value in (x, w)]
    product = ir.node("Gemm", [node.outputs[0] for node in narrow], {"transB": 1})
    wide = ir.node("Cast", [product.outputs[0]], {"to": ir.DataType.FLOAT})
    y = wide.outputs[0]
    y.name, y.shape, y.type = "y", ir.Shape((ROWS, WIDTH)), ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph([x, w], [y], nodes=[*narrow, product, wide], opset_imports={"": OPSET}, name="check")
    data: bytes = ir.serde.serialize_model(ir.Model(graph, ir_version=IR_VERSION)).SerializeToString()
    return data


_SHAPES = {"x": (ROWS, WIDTH), "w": (WIDTH, WIDTH)}

if __name__ == "__main__":
    main()
