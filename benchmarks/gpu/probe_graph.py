"""A few nodes as an ONNX model over torch's own buffers, run by ONNX Runtime on one device and nowhere else."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir
import onnxruntime
import torch

CONTRIB = "com.microsoft"
OPSET, IR_VERSION = 23, 11
TYPES = {
    torch.float32: ir.DataType.FLOAT, torch.float16: ir.DataType.FLOAT16, torch.bfloat16: ir.DataType.BFLOAT16,
    torch.int32: ir.DataType.INT32, torch.int64: ir.DataType.INT64, torch.bool: ir.DataType.BOOL,
    torch.float8_e4m3fn: ir.DataType.FLOAT8E4M3FN,
}  # fmt: skip
WARM_UP, TRIALS = 3, 10


@dataclass
class ProbeGraph:
    """Nodes are added in order; inputs and outputs are tensors that torch allocated.

    `device` is where they are computed. On "cuda", tensors are taken to be there, wherever torch has them: over a stub
    of CUDA, the host's memory is the device's. `options` are of ONNX Runtime's CUDA provider.
    """

    device: str
    options: dict[str, str] = field(default_factory=dict)
    _inputs: dict[str, tuple[ir.Value, torch.Tensor]] = field(default_factory=dict)
    _outputs: dict[str, tuple[ir.Value, torch.Tensor]] = field(default_factory=dict)
    _nodes: list[ir.Node] = field(default_factory=list)
    _host: set[str] = field(default_factory=set)

    def input(self, name: str, tensor: torch.Tensor, *, host: bool = False) -> ir.Value:
        """A graph input that reads `tensor`; `host`: one that a kernel reads on the host."""
        if host:
            self._host.add(name)
        value = ir.Value(name=name, shape=ir.Shape(tensor.shape), type=ir.TensorType(TYPES[tensor.dtype]))
        self._inputs[name] = value, tensor.contiguous()
        return value

    def type_of(self, value: ir.Value) -> ir.DataType:
        """Of one of the inputs."""
        assert value.name is not None
        return TYPES[self._inputs[value.name][1].dtype]

    def ops(
        self, op_type: str, inputs: Sequence[ir.Value | None], *, outputs: int = 1, domain: str = "", **attributes: Any
    ) -> Sequence[ir.Value]:
        """One node."""
        name = f"{op_type}_{len(self._nodes)}"
        node = ir.node(op_type, inputs, attributes, domain=domain, num_outputs=outputs, name=name)
        for index, value in enumerate(node.outputs):
            value.name = f"{name}_{index}"
        self._nodes.append(node)
        return node.outputs

    def output(self, value: ir.Value, tensor: torch.Tensor) -> torch.Tensor:
        """A graph output that is written into `tensor`."""
        assert value.name is not None
        value.shape, value.type = ir.Shape(tensor.shape), ir.TensorType(TYPES[tensor.dtype])
        self._outputs[value.name] = value, tensor
        return tensor

    def seconds(self) -> float:
        """Mean of successive runs. Raises what ONNX Runtime does where the device has no kernel for a node."""
        session = self._session()
        binding = session.io_binding()
        for name, (_, tensor) in self._inputs.items():
            binding.bind_input(name, *self._place(name, tensor))
        for name, (_, tensor) in self._outputs.items():
            binding.bind_output(name, *self._place(name, tensor))
        self._wait()  # torch's stream is not ONNX Runtime's
        for _ in range(WARM_UP):
            session.run_with_iobinding(binding)
        begin = time.perf_counter()
        for _ in range(TRIALS):
            session.run_with_iobinding(binding)
        self._wait()
        return (time.perf_counter() - begin) / TRIALS

    def _session(self) -> Any:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # equal nodes stay apart
        provider = "CUDAExecutionProvider" if self.device == "cuda" else "CPUExecutionProvider"
        if self.device == "cuda":
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        session = onnxruntime.InferenceSession(
            self._model(), options, providers=[(provider, self.options if self.device == "cuda" else {})]
        )
        if session.get_providers()[0] != provider:  # it falls back with no more than a warning
            raise RuntimeError(f"{provider} cannot be loaded; ONNX Runtime took {session.get_providers()[0]}")
        return session

    def _model(self) -> bytes:
        graph = ir.Graph(
            [value for value, _ in self._inputs.values()],
            [value for value, _ in self._outputs.values()],
            nodes=self._nodes,
            opset_imports={"": OPSET, CONTRIB: 1},
            name="probe",
        )
        data: bytes = ir.serde.serialize_model(ir.Model(graph, ir_version=IR_VERSION)).SerializeToString()
        return data

    def _place(self, name: str, tensor: torch.Tensor) -> tuple[str, int, int, list[int], int]:
        return (
            "cpu" if name in self._host else self.device,
            0,
            int(TYPES[tensor.dtype]),
            list(tensor.shape),
            tensor.data_ptr(),
        )

    def _wait(self) -> None:
        if self.device == "cuda" and torch.cuda.is_available():
            torch.cuda.synchronize()
