"""Passes of one binding, on the CPU: what is converted, what is kept, and that no pass sees the last one's outputs."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from rmruntime.backends._ort_io_binding import DeviceBinding
from rmruntime.errors import BackendError

FLOAT, INT64, INT32 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32
PAGE_TYPES = {"float": FLOAT, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
PAGES = ["pages", 4, 2, 8]


def session(folder: Path, nodes: list[Any], inputs: dict[str, tuple[int, list[Any]]], outputs: list[str]) -> Any:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, folder / "graph.onnx")
    return onnxruntime.InferenceSession(str(folder / "graph.onnx"), providers=["CPUExecutionProvider"])


def binding(opened: Any) -> DeviceBinding:
    return DeviceBinding(onnxruntime, opened, 0)


def paged(folder: Path, kind: int) -> DeviceBinding:
    """`sum` of all that is in the pages, their number as `count`."""
    nodes = [
        helper.make_node("Cast", ["key_pages"], ["values"], to=FLOAT),
        helper.make_node("ReduceSum", ["values"], ["sum"], keepdims=0),
        helper.make_node("Shape", ["key_pages"], ["shape"], start=0, end=1),
        helper.make_node("Cast", ["shape"], ["count"], to=FLOAT),
        helper.make_node("Cast", ["page_table"], ["table"], to=FLOAT),
    ]
    inputs = {"page_table": (INT64, ["B", "M"]), "key_pages": (kind, PAGES)}
    return binding(session(folder, nodes, inputs, ["sum", "count", "table"]))


def test_inputs_are_converted_and_outputs_have_each_passs_own_size(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["wide"], ["a"], to=FLOAT),
        helper.make_node("Cast", ["narrow"], ["b"], to=FLOAT),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    made = binding(session(tmp_path, nodes, {"wide": (INT64, ["N"]), "narrow": (INT32, ["N"])}, ["y"]))
    for length in (3, 5, 1):
        wide, narrow = np.arange(length), np.arange(0, 20 * length, 10)[::2]  # the second with a stride
        outputs = made.run({"wide": wide, "narrow": narrow, "unread": wide}, None)
        np.testing.assert_array_equal(outputs["y"], (wide + narrow).astype(np.float32))


def test_an_output_survives_the_next_pass(tmp_path: Path) -> None:
    made = binding(session(tmp_path, [helper.make_node("Cast", ["x"], ["y"], to=FLOAT)], {"x": (INT64, ["N"])}, ["y"]))
    first = made.run({"x": np.array([1, 2])}, None)["y"]
    made.run({"x": np.array([7, 8])}, None)
    np.testing.assert_array_equal(first, [1.0, 2.0])


@pytest.mark.parametrize("kind", PAGE_TYPES)
def test_pages_are_zeros_and_as_many_as_the_table_names(tmp_path: Path, kind: str) -> None:
    made = paged(tmp_path, PAGE_TYPES[kind])
    counts = []
    for largest in (4, 2, 6, 5, 7, 8, 30):
        outputs = made.run({"page_table": np.array([[0, largest], [1, 0]])}, None)
        assert outputs["sum"] == 0.0
        counts.append(int(outputs["count"][0]))
    # those of a larger pass are kept; where 9 are needed beyond 8, there are a quarter more at once
    assert counts == [5, 5, 7, 7, 8, 10, 31]


def test_an_input_that_the_pass_does_not_have_is_named(tmp_path: Path) -> None:
    made = paged(tmp_path, FLOAT)
    with pytest.raises(BackendError, match="'page_table', the pass has input_ids"):
        made.run({"input_ids": np.array([1])}, None)


@pytest.mark.parametrize(
    ("inputs", "named"),
    [
        ({"x": (TensorProto.DOUBLE, ["N"])}, r"x: tensor\(double\)"),
        ({"page_table": (INT64, ["N"]), "x": (FLOAT, ["N"])}, "x: "),
        ({"x": (FLOAT, PAGES)}, "pages"),
    ],
    ids=["type", "shape", "no table"],
)
def test_a_graph_with_other_inputs_is_refused(tmp_path: Path, inputs: dict[str, Any], named: str) -> None:
    opened = session(tmp_path, [helper.make_node("Cast", ["x"], ["y"], to=FLOAT)], inputs, ["y"])
    with pytest.raises(BackendError, match=f"does not know.*{named}.*upgrade"):
        binding(opened)
