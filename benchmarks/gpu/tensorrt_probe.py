"""Whether TensorRT, or TensorRT-RTX, can be imported, builds and runs here: `python -m gpu.tensorrt_probe LIBRARY`.

RTX names no compute capability 9.0 among those it builds for; whether such an engine runs there is a question that only
the GPU answers. Prints how far it came as JSON: a failure of the library is the answer, not an error.
"""

import importlib
import json
import sys
from typing import Any

SIZE = 64
Record = dict[str, Any]


def main() -> None:
    print(json.dumps(probe(sys.argv[1])))


def probe(library: str) -> Record:
    """`reached` is the last of import, build, deserialize, run, right that succeeded; `message` says what came next."""
    record: Record = {"library": library, "reached": None}
    try:
        trt = importlib.import_module(library)
        record |= {"version": trt.__version__, "reached": "import"}
        logger = trt.Logger(trt.Logger.ERROR)
        plan = _build(trt, logger)
        record["reached"] = "build"
        runtime = trt.Runtime(logger)
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise RuntimeError(f"the engine cannot be deserialized{_validity(runtime, plan)}")
        record["reached"] = "deserialize"
        difference = _run(engine)
        record |= {"reached": "run", "max_abs": difference}
        record["reached"] = "right" if difference == 0.0 else "run"
    except Exception as error:  # the libraries raise classes of their own, and a missing driver many others
        record["message"] = f"{type(error).__name__}: {error}"[:500]
    return record


def _build(trt: Any, logger: Any) -> Any:
    """x + x, strongly typed."""
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    x = network.add_input("x", trt.DataType.FLOAT, (SIZE,))
    y = network.add_elementwise(x, x, trt.ElementWiseOperation.SUM).get_output(0)
    y.name = "y"
    network.mark_output(y)
    plan = builder.build_serialized_network(network, builder.create_builder_config())
    if plan is None:
        raise RuntimeError("no engine was built; the library wrote why to standard error")
    return plan


def _validity(runtime: Any, plan: Any) -> str:
    """What RTX says of an engine before loading it; TensorRT has no such question."""
    ask = getattr(runtime, "get_engine_validity", None)
    return "" if ask is None else f" (validity: {ask(plan)})"


def _run(engine: Any) -> float:
    """The largest difference from 2 x."""
    import torch

    x = torch.arange(SIZE, dtype=torch.float32, device="cuda")
    y = torch.zeros_like(x)
    context = engine.create_execution_context()
    context.set_tensor_address("x", x.data_ptr())
    context.set_tensor_address("y", y.data_ptr())
    stream = torch.cuda.Stream()
    if not context.execute_async_v3(stream.cuda_stream):
        raise RuntimeError("the engine did not run")
    stream.synchronize()
    return float((y - 2 * x).abs().max())


if __name__ == "__main__":
    main()
