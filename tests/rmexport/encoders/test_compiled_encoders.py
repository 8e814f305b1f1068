"""TensorRT takes the traced graphs: parsed and built by tensorrt_rtx for compute capability 8.9, without a GPU."""

import shutil
from pathlib import Path

import pytest

from rmexport.compile import CompileOptions, compile_bundle
from rmruntime.bundle import Bundle

KERNELS = 64 << 20  # most bytes of an engine beyond its weights


@pytest.mark.parametrize("name", ["deberta-v3.bf16", "modernbert-cls.fp32", "bert.fp16"])
def test_compiled(encoders: Path, tmp_path: Path, name: str) -> None:
    pytest.importorskip("tensorrt_rtx")
    bundle = shutil.copytree(encoders / name, tmp_path / name)  # other tests look at what an export alone wrote
    made = compile_bundle(bundle, CompileOptions(compute_capability="8.9", max_batch_tokens=1024))
    record, weights = made.record, [f.size for f in Bundle.open(bundle).manifest.files if f.role == "weights"]
    assert (record.graph, record.compute_dtype) == ("traced.fp32.padded.onnx", "fp32")
    assert sum(weights) / 2 <= record.size <= 2 * sum(weights) + KERNELS  # 16-bit weights may be stored as fp32
    latency, throughput = record.profiles
    assert (latency.dimensions["batch_size"].tuned, latency.dimensions["sequence_length"].most) == (1, made.max_length)
    assert throughput.dimensions["batch_size"].tuned == 1024 // made.max_length
