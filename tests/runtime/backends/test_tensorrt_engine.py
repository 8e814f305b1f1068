"""One engine's profiles and types; and whether the packages have what is used of them, where one is installed."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from fake_tensorrt import Machine
from rmruntime import BackendError
from rmruntime.backends._cuda_memory import CudaMemory
from rmruntime.backends._tensorrt_engine import TensorRtEngine
from rmruntime.backends._tensorrt_log import Messages, error_recorder, logger
from rmruntime.errors import PassTooLarge


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    machine = Machine()
    machine.install(monkeypatch)
    yield machine
    assert not machine.cuda.device and not machine.cuda.host and not machine.cuda.streams


def test_a_padded_graph_takes_the_inputs_that_it_has(machine: Machine, tmp_path: Path) -> None:
    """Encoders without token types; two profiles, [B, L] each."""
    graph = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["": 23]>
        g (int64[B, S] input_ids, int64[B, S] attention_mask) => (float[B, 1] score) {
            seen = Mul (input_ids, attention_mask)
            axis = Constant <value_ints = [1]> ()
            sum = ReduceSum (seen, axis)
            score = Cast <to = 1> (sum)
        }"""
    )
    onnx.save(graph, tmp_path / "g.onnx")
    sizes = [{"B": [1, 4, 64], "S": [1, 64, 64]}, {"B": [1, 1, 1], "S": [1, 512, 512]}]
    (tmp_path / "model.engine").write_text(json.dumps({"graph": str(tmp_path / "g.onnx"), "profiles": sizes}))
    memory = CudaMemory(0)
    engine = TensorRtEngine("tensorrt", tmp_path / "model.engine", memory)
    rng = np.random.default_rng(0)
    for shape in ((5, 60), (1, 300), (1, 64), (64, 64), (2, 1)):
        ids, mask = rng.integers(0, 100, shape), rng.integers(0, 2, shape)
        found = engine.run({"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros(shape, np.int64)})
        np.testing.assert_array_equal(found["score"], (ids * mask).sum(axis=1, keepdims=True))
    assert machine.trt.switches == [0, 1, 0]  # [1, 64] fits the smaller of the two
    with pytest.raises(PassTooLarge, match=r"input_ids \[2, 300\] \(limit \[64, 64\]\)"):
        engine.run({"input_ids": np.ones((2, 300), np.int64), "attention_mask": np.ones((2, 300), np.int64)})
    with pytest.raises(BackendError, match="takes no inputs as small as") as caught:
        engine.run({"input_ids": np.ones((1, 0), np.int64), "attention_mask": np.ones((1, 0), np.int64)})
    assert not isinstance(caught.value, PassTooLarge)  # a smaller pass would fare no better
    engine.close()
    memory.close()


# Whether the fake is like the real thing.


def test_the_interface_exists_in_tensorrt_rtx() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    names = {
        "Runtime": "deserialize_cuda_engine error_recorder",
        "ICudaEngine": "num_io_tensors get_tensor_name get_tensor_mode get_tensor_dtype get_tensor_location "
        "num_optimization_profiles get_tensor_profile_shape device_memory_size_v2 create_execution_context "
        "error_recorder",
        "IExecutionContext": "set_optimization_profile_async set_input_shape set_tensor_address infer_shapes "
        "get_tensor_shape execute_async_v3 error_recorder",
        "IErrorRecorder": "report_error num_errors get_error_code get_error_desc has_overflowed clear",
        "ILogger": "log ERROR INTERNAL_ERROR",
        "IStreamReaderV2": "read seek",
        "TensorIOMode": "INPUT OUTPUT",
        "TensorLocation": "DEVICE HOST",
        "DataType": "INT64 INT32 BOOL FLOAT HALF BF16",
    }
    missing = [
        f"{kind}.{name}" for kind, all in names.items() for name in all.split() if not hasattr(getattr(trt, kind), name)
    ]
    assert not missing
    assert [int(getattr(trt.SeekPosition, name)) for name in ("SET", "CUR", "END")] == [0, 1, 2]
    assert trt.ErrorCodeTRT.FAILED_ALLOCATION.name and trt.DataType.INT64.name == "INT64"
    assert tuple(trt.Dims((2, 3))) == (2, 3)


def test_tensorrt_rtx_speaks_to_our_recorder() -> None:
    """Without a driver an engine does not load; the reason, of the file or the driver, is kept."""
    trt = pytest.importorskip("tensorrt_rtx")
    messages = Messages()
    recorder, log = error_recorder(trt, messages), logger(trt, messages)
    runtime = trt.Runtime(log)
    runtime.error_recorder = recorder
    assert runtime.deserialize_cuda_engine(b"no engine" * 100) is None
    assert len(messages) and str(messages) != str(Messages())
    assert trt.IErrorRecorder.num_errors(recorder) == len(messages)  # through the package, as the library asks
    assert trt.IErrorRecorder.get_error_desc(recorder, 0) == messages[0]
    assert not trt.IErrorRecorder.has_overflowed(recorder)
    trt.IErrorRecorder.clear(recorder)
    assert trt.IErrorRecorder.num_errors(recorder) == 0
