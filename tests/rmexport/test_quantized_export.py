"""Quantized bundles score as their own dequantized weights do, in every dialect, and say what they are."""

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from conversations import ragged_records
from family_checkpoints import family_checkpoint
from rmexport import CheckpointError, ExportOptions, OptionError, export
from rmexport.bench.gemm_peak import matmul_parameters
from rmexport.cli import main
from rmexport.dialects import dialects
from rmexport.errors import ExportError
from rmexport.families import families
from rmexport.graph.writer import GraphWriter
from rmexport.weights.quantization import SCALE_SUFFIX, Quantized, decode
from rmexport.weights.weight_spec import WeightLocation
from rmruntime import BackendError, RewardModel, ScoreOptions
from rmruntime.batching.packing import pack, row_shape
from rmruntime.bundle import Bundle
from rmruntime.bundle.manifest import Graph, Scheme, decode_manifest, digest, encode_manifest
from rmruntime.records import parse_record
from rmruntime.text.request_tokenizer import RequestTokenizer
from tiny_checkpoints import TinyShape, causal_lm, gated, sequence_classifier

SCHEMES: tuple[Scheme, ...] = get_args(Scheme)
RECORDS = ragged_records(6)
# Layers with biases; 80 inputs of down_proj are no whole blocks, so that int4 has int8 layers too.
SHAPE = TinyShape(intermediate_size=80, extra={"attention_bias": True, "mlp_bias": True})


def dequantize(checkpoint: Path, bundle: Path) -> None:
    """The checkpoint's matrices become what the bundle stores."""
    with safe_open(next(bundle.glob("*.safetensors")), "pt") as file:
        held = {name: file.get_tensor(name) for name in file.keys()}  # no mapping
    tensors = load_file(checkpoint / "model.safetensors")
    for name in [name for name in held if name + SCALE_SUFFIX in held]:
        codes, scales = held[name], held[name + SCALE_SUFFIX].float().numpy()
        scheme: Scheme = "int4" if codes.dtype == torch.uint8 else "int8"
        values = codes.float().numpy() if codes.dtype != torch.uint8 else codes.numpy()
        tensors[name] = torch.from_numpy(decode(values, scales, scheme))
    save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})


def feeds(bundle: Bundle, graph: Graph) -> dict[str, Any]:
    encoder = RequestTokenizer(bundle.manifest, bundle.folder)
    sequences = [encoder.encode(parse_record(record), ScoreOptions())[0] for record in RECORDS]
    return dict(pack(sequences, row_shape(graph)).feeds)


def scores(bundle: Path, device: str) -> list[float]:
    with RewardModel.load(bundle, device=device, precision="fp32") as model:
        return [score.value for score in model.score(RECORDS)]  # type: ignore[union-attr]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_dialect_scores_as_the_dequantized_weights_do(tmp_path: Path, scheme: Scheme) -> None:
    folder = sequence_classifier(tmp_path / "c", SHAPE).folder
    export(str(folder), tmp_path / "q", ExportOptions(quantize=scheme))
    dequantize(folder, tmp_path / "q")
    export(str(folder), tmp_path / "b")
    expected, manifest = scores(tmp_path / "b", "ort-cpu"), Bundle.open(tmp_path / "q").manifest
    written = {graph.dialect for graph in manifest.graphs}
    assert written == {n for n, d in dialects().items() if scheme in d.SCHEMES and d.compute_dtypes("fp32")}
    for device in {"ort-cpu", "openvino"} & written:
        np.testing.assert_allclose(scores(tmp_path / "q", device), expected, atol=1e-5, err_msg=device)
    for graph in manifest.graphs:
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        session = onnxruntime.InferenceSession(tmp_path / "q" / graph.file, options, providers=["CPUExecutionProvider"])
        [found] = session.run(["score"], feeds(Bundle.open(tmp_path / "q"), graph))
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=graph.dialect)


@pytest.mark.parametrize("model_type", ["gpt_neox", "mixtral", "phi3"])
def test_families_know_nothing_of_it(tmp_path: Path, model_type: str) -> None:
    """Rows of fused projections; experts keep their dtype."""
    fields: dict[str, Any] = {
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 16,
        "num_key_value_heads": 4 if model_type == "gpt_neox" else 2, "max_position_embeddings": 512,
    }  # fmt: skip
    assert model_type in families()
    folder = family_checkpoint(tmp_path / "c", model_type, fields).folder
    export(str(folder), tmp_path / "b")
    expected = np.array(scores(tmp_path / "b", "openvino"))
    for scheme, least in (("int8", 0.999), ("int4", 0.5)):  # of experts, others are chosen
        export(str(folder), tmp_path / scheme, ExportOptions(quantize=scheme))  # type: ignore[arg-type] # a Scheme
        found = np.array(scores(tmp_path / scheme, "openvino"))
        np.testing.assert_allclose(found, scores(tmp_path / scheme, "ort-cpu"), atol=1e-5)
        assert 0 < np.abs(found - expected).max()
        assert np.corrcoef(found, expected)[0, 1] > least


@pytest.mark.parametrize("scheme", SCHEMES)
def test_only_linear_layers_are_quantized(tmp_path: Path, scheme: Scheme) -> None:
    folder = gated(tmp_path / "c", dtype=torch.bfloat16).folder
    manifest = export(str(folder), tmp_path / "b", ExportOptions(quantize=scheme))
    wide, narrow = set(), set()
    with safe_open(next((tmp_path / "b").glob("*.safetensors")), "pt") as file:
        for name in file.keys():  # no mapping
            (narrow if file.get_tensor(name).dtype.itemsize == 1 else wide).add(name)
    assert narrow and all("_proj." in name for name in narrow)
    assert {name + SCALE_SUFFIX for name in narrow} == {name for name in wide if "_proj." in name}
    assert manifest.quantization is not None
    assert (manifest.dtype, manifest.quantization.scheme, manifest.options["quantize"]) == ("bf16", scheme, scheme)
    assert manifest.backbone.parameters == export(str(folder), tmp_path / "plain").backbone.parameters
    matrices = 3 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 96)
    assert manifest.quantization.parameters == matrices == matmul_parameters(Bundle.open(tmp_path / "b"))


def test_a_judges_tied_head_and_embedding_stay_as_they_are(tmp_path: Path) -> None:
    folder = causal_lm(tmp_path / "c", dtype=torch.bfloat16).folder
    options = ExportOptions(quantize="int8", recipe="rlhflow-prm")
    assert export(str(folder), tmp_path / "b", options).quantization is not None
    with RewardModel.load(tmp_path / "b") as model:
        assert model.score([{"prompt": "a", "steps": ["b", "c"]}])[0].steps  # type: ignore[union-attr]


def test_manifests_that_know_nothing_of_it_are_read(tmp_path: Path) -> None:
    manifest = export(str(sequence_classifier(tmp_path / "c").folder), tmp_path / "b", ExportOptions(quantize="int8"))
    assert decode_manifest(encode_manifest(manifest)).quantization == manifest.quantization
    plain = export(str(tmp_path / "c"), tmp_path / "p")
    data = json.loads(encode_manifest(plain))
    del data["quantization"], data["digest"]
    assert decode_manifest(json.dumps({**data, "digest": digest(data)}).encode()) == plain


def test_the_command_line_shows_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(sequence_classifier(tmp_path / "c", dtype=torch.bfloat16).folder)
    assert main(["export", folder, str(tmp_path / "b"), "--quantize", "int4"]) == 0
    assert "bf16 with int4 layers" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "b")]) == 0
    assert "int4 for 92,160 parameters of linear layers, a scale for 32 inputs" in capsys.readouterr().out
    assert main(["export", folder, str(tmp_path / "l"), "--quantize", "int8", "--weights", "link"]) == 2
    assert "leave --quantize out" in capsys.readouterr().err


def test_an_engine_without_words_for_it_says_so(tmp_path: Path) -> None:
    export(str(sequence_classifier(tmp_path / "c").folder), tmp_path / "b", ExportOptions(quantize="fp8"))
    with pytest.raises(BackendError, match="Its weights are fp8, which not every engine computes with"):
        RewardModel.load(tmp_path / "b", device="openvino")
    with RewardModel.load(tmp_path / "b", device="cpu") as model:
        assert model.backend == "ort-cpu"


def test_quantized_checkpoints_are_refused_still(tmp_path: Path) -> None:
    folder = sequence_classifier(tmp_path / "c").folder
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"] = torch.zeros(96, 64, dtype=torch.int8)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"integers for weights, by model\.layers\.0"):
        export(str(folder), tmp_path / "b", ExportOptions(quantize="int8"))


def test_an_unknown_scheme_is_an_error() -> None:
    with pytest.raises(OptionError, match="quantize is 'int2', expected one of int8, int4, fp8, None"):
        ExportOptions(quantize="int2")  # type: ignore[arg-type] # the point


def test_portable_graphs_are_valid_onnx(tmp_path: Path) -> None:
    folder = sequence_classifier(tmp_path / "c", dtype=torch.bfloat16).folder
    for scheme in ("int8", "fp8"):
        export(str(folder), tmp_path / scheme, ExportOptions(quantize=scheme))  # type: ignore[arg-type] # a Scheme
        onnx.checker.check_model(str(tmp_path / scheme / "portable.bf16.packed.onnx"))


def test_a_quantized_weight_is_no_plain_one() -> None:
    """A dialect that reads it as such would compute with codes."""
    how = Quantized("int8", "codes", (4, 4), "bf16")
    writer = GraphWriter({"w": WeightLocation("w", 0, 16, "int8", (4, 4), how)})
    with pytest.raises(ExportError, match="weight w is quantized, and its codes alone are no weight"):
        writer.weight("w", (4, 4))
