"""Every node of every family's CUDA graphs against what the CUDA provider's kernels take; needs no GPU."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from backbone_shapes import BACKBONES, ROUTED
from cuda_kernels import host_reads, kernel_name, unfit_nodes
from rmexport.dialects import dialects
from rmexport.families import families, family_of
from rmexport.graph.decoder_writer import DecoderWriter
from rmexport.graph.stages import LayerSpan
from rmexport.graph.writer import GraphWriter
from rmexport.weights.quantization import Quantized, scheme_for
from rmexport.weights.weight_spec import WeightLocation
from rmruntime.bundle.manifest import Scheme

_LLAMA = BACKBONES["llama"][1]
SHAPES = BACKBONES | {  # and those of which transformers has no classifier of a backbone alone
    "internlm2": ("internlm2", _LLAMA | {"bias": True}),
    "qwen2_5_vl": ("qwen2_5_vl_text", _LLAMA),
    "qwen3_vl": ("qwen3_vl_text", BACKBONES["qwen3"][1]),
}
# One of each kind of layer; the others have the operators of these, with other sizes and factors.
ALWAYS = (
    "llama",
    "llama_odd_heads",
    "llama_dynamic",
    "gemma2",
    "glm4",
    "gpt_neox",
    "ministral3",
    "qwen3_moe",
    "smollm3",
)
CASES = [name if name in ALWAYS else pytest.param(name, marks=pytest.mark.ladder) for name in SHAPES]
WHOLE = LayerSpan()
DIALECTS = [dialects()[name] for name in ("ort-cuda", "ort-cuda-paged")]
# The number of blocks of routed experts is known on the device only; three values a layer come to the host.
ROUTED_HOST_READS = {"Expand", "Range", "Reshape", "Size"}


def backbone_graph(
    dialect: Any,
    compute_dtype: str,
    backbone: str,
    span: LayerSpan = WHOLE,
    scheme: Scheme | None = None,
    *,
    past: bool = False,
    more: Mapping[str, Any] | None = None,
) -> onnx.ModelProto:
    """A backbone, or a stage, without its weights, stored in the compute dtype, or with quantized matrices.

    `more` are fields of its config instead of its own, and beside them.
    """
    model_type, fields = SHAPES[backbone]
    raw = {"model_type": model_type, "vocab_size": 100, **fields, **(more or {})}
    family: Any = family_of(raw)
    config = family.read_config(raw)
    dry = GraphWriter(None)
    family.backbone(DecoderWriter(dialects()["portable"](dry, compute_dtype)), config)
    dtypes = {name: "fp32" if r.in_fp32 else compute_dtype for name, r in dry.requests.items()}
    locations = {name: WeightLocation("w", 0, 0, dtypes[name], r.shape) for name, r in dry.requests.items()}
    for name, request in dry.requests.items():
        if scheme and request.linear:
            codes = Quantized(scheme_for(scheme, request.shape), "codes", request.shape, compute_dtype)  # type: ignore[arg-type] # two dimensions
            for suffix, part in (("", codes), ("_scale", replace(codes, part="scale"))):
                locations[name + suffix] = WeightLocation("w", 0, 0, part.dtype, part.stored_shape, part)
    writer = GraphWriter(locations)
    d = DecoderWriter(dialect(writer, compute_dtype), span, past=past)
    hidden = family.backbone(d, config)
    if span.end is None:
        writer.output("hidden", hidden, ["N", config.hidden_size])
    else:
        d.hand_over(hidden, config.hidden_size)
    return ir.to_proto(writer.model(backbone))


def graphs(backbone: str, *, past: bool = False) -> list[onnx.ModelProto]:
    return [
        backbone_graph(dialect, compute_dtype, backbone, past=past)
        for dialect in DIALECTS
        for bundle_dtype in ("bf16", "fp16", "fp32")
        for compute_dtype in dialect.compute_dtypes(bundle_dtype)
    ]


def test_every_family_is_looked_at() -> None:
    known = {family_of({"model_type": model_type, **fields}) for model_type, fields in SHAPES.values()}
    assert known | {family_of({"model_type": "llama_bidirec"})} == set(families().values())


def test_bidirectional_llama_has_the_nodes_of_llama() -> None:
    """Which keys a query sees is in the inputs; so what was looked at for Llama need not be for it."""
    fields = {"model_type": "llama_bidirec", "pooling": "avg", "temperature": 1.0}
    both = [backbone_graph(DIALECTS[0], "bf16", "llama", more=more) for more in ({}, fields)]
    assert both[0].SerializeToString(deterministic=True) == both[1].SerializeToString(deterministic=True)


@pytest.mark.parametrize("backbone", CASES)
@pytest.mark.parametrize("past", [False, True], ids=["whole", "past"])
def test_every_node_has_a_kernel(backbone: str, past: bool) -> None:
    found = graphs(backbone, past=past)
    assert len(found) == 5
    for model in found:
        assert unfit_nodes(model) == []
        assert host_reads(model) == (ROUTED_HOST_READS if backbone in ROUTED else set())


@pytest.mark.parametrize("scheme", get_args(Scheme))
@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.NAME)
def test_quantized_matrices_have_kernels_too(dialect: Any, scheme: Scheme) -> None:
    for dtype in ("bf16", "fp16"):
        model = backbone_graph(dialect, dtype, "qwen2", scheme=scheme)  # with biases
        assert unfit_nodes(model) == [] and host_reads(model) == set()
        products = [n for n in model.graph.node if n.op_type == "MatMulNBits"]
        assert bool(products) == (scheme == "int4")
        for node in products:
            values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            assert values["block_size"] == 32 and values["K"] % 32 == 0 and values["bits"] == 4
            assert values.get("accuracy_level", 0) == 0  # inputs are not rounded


@pytest.mark.parametrize("backbone", CASES)
def test_every_node_of_a_stage_has_a_kernel(backbone: str) -> None:
    for span in (LayerSpan(end=1), LayerSpan(first=1, end=2), LayerSpan(first=2)):
        for dialect in DIALECTS:
            for past in (False, True):
                assert unfit_nodes(backbone_graph(dialect, "bf16", backbone, span, past=past)) == []


@pytest.mark.parametrize("backbone", CASES)
def test_attention_stays_within_the_fast_kernels_limits(backbone: str) -> None:
    """No mask for FlashAttention by pages; else a mask of all queries and keys, on inputs [rows, length, features]."""
    for model in graphs(backbone):
        for node in model.graph.node:
            values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            if node.op_type == "Attention":
                assert len(node.input) == 4 and not set(values) - {"q_num_heads", "kv_num_heads", "scale", "softcap"}
                assert values["scale"] > 0
            if node.op_type == "PagedAttention":
                assert len(node.input) == 17 and len(node.output) == 1
                assert list(node.input[8:16]) == [""] * 8
                assert page_dims(model)[3] % 8 == 0 and page_dims(model)[1] % 256 == 0


@pytest.mark.parametrize("backbone", ["llama_odd_heads", "gemma2"])
def test_with_a_past_every_layer_has_its_own_pages(backbone: str) -> None:
    """And the op is told where keys go."""
    model = backbone_graph(DIALECTS[1], "bf16", backbone, past=True)
    nodes = [node for node in model.graph.node if node.op_type == "PagedAttention"]
    assert [node.input[3:5] for node in nodes] == [[f"key_pages_{i}", f"value_pages_{i}"] for i in range(len(nodes))]
    for node in nodes:
        assert list(node.input[8:16]) == ["", "", "page_slots", "", "", "", "", ""] and len(node.input) == 17


def page_dims(model: onnx.ModelProto) -> list[int]:
    [keys, values] = [i for i in model.graph.input if i.name.endswith("_pages")]
    dims = [[d.dim_value for d in i.type.tensor_type.shape.dim] for i in (keys, values)]
    assert dims[0] == dims[1]
    return dims[0]


def test_gemma_2s_softcap_and_windows_are_the_ops_own() -> None:
    [paged, _] = [m for m in graphs("gemma2") if any(n.op_type == "PagedAttention" for n in m.graph.node)]
    attributes = [
        {a.name: helper.get_attribute_value(a) for a in n.attribute}
        for n in paged.graph.node
        if n.op_type == "PagedAttention"
    ]
    assert [a.get("local_window_size") for a in attributes] == [24, None, 24]
    assert [a["softcap"] for a in attributes] == [2.0, 2.0, 2.0]


def test_a_dtype_without_a_kernel_is_found() -> None:
    """The check itself: cosines of bf16, a mixed product, an op of the portable graphs that nobody listed."""
    nodes = [
        helper.make_node("Cos", ["x"], ["a"], "cos"),
        helper.make_node("MatMul", ["x", "y"], ["b"], "mixed"),
        helper.make_node("Erf", ["y"], ["c"], "unlisted"),
        helper.make_node("Shape", ["y"], ["d"], "shape"),
        helper.make_node("Reshape", ["y", "d"], ["e"], "reshape"),
    ]
    types = {"x": TensorProto.BFLOAT16, "y": TensorProto.FLOAT}
    inputs = [helper.make_tensor_value_info(name, dtype, None) for name, dtype in types.items()]
    model = helper.make_model(helper.make_graph(nodes, "g", inputs, []))
    assert [problem.partition(":")[0] for problem in unfit_nodes(model)] == ["cos", "mixed", "unlisted"]
    assert host_reads(model) == {"Shape", "Reshape"}
    assert kernel_name(nodes[0]) == "Cos"
