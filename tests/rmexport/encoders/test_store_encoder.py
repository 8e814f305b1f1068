"""What an encoder's export writes: one weight file that others can read, a small graph over it, and no leftovers."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from conversations import text
from rmexport import ExportOptions
from rmexport.checkpoint import open_checkpoint
from rmexport.encoders import read_encoder_spec
from rmexport.verify.encoder_reference import encoder_reference
from rmruntime import RewardModel, Score
from rmruntime.bundle import Bundle
from rmruntime.sequences import TokenSequence

RECORD = {"prompt": "What is the answer", "response": "the answer is good"}


def value(bundle: Path, record: dict[str, str]) -> float:
    with RewardModel.load(bundle) as model:
        [score] = model.score([record])
    assert isinstance(score, Score) and score.value is not None
    return score.value


def test_the_bundle_is_whole_and_nothing_else(encoders: Path) -> None:
    folder = encoders / "deberta-v3.bf16"
    Bundle.open(folder, check="full")
    names = {"manifest.json", "model.safetensors", "tokenizer.json", "traced.fp32.padded.onnx"}
    assert {path.name for path in folder.iterdir()} == names


def test_matrices_are_stored_in_16_bits_and_small_tensors_in_fp32(encoders: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(encoders / "deberta-v3", dtype=torch.float32)
    held = load_file(encoders / "deberta-v3.bf16" / "model.safetensors")
    for name, parameter in model.named_parameters():
        wide = parameter.ndim == 2 and min(parameter.shape) >= 16
        if f"{name}_transposed" in held:
            assert torch.equal(held[f"{name}_transposed"], parameter.T.to(torch.bfloat16))
        else:
            assert torch.equal(held[name], parameter.to(torch.bfloat16 if wide else torch.float32)), name


def test_every_float_initializer_lies_in_the_weight_file(encoders: Path) -> None:
    for name in ("deberta-v3.bf16", "bert.fp32", "modernbert-mean.fp32"):
        manifest = Bundle.open(encoders / name).manifest
        graph = ir.load(encoders / name / manifest.graphs[0].file).graph
        assert [value.name for value in graph.inputs] == ["input_ids", "attention_mask", "token_type_ids"]
        for initializer in graph.initializers.values():
            tensor = initializer.const_value
            assert tensor is not None
            if isinstance(tensor, ir.ExternalTensor):
                assert tensor.location == "model.safetensors" and (tensor.offset or 0) % tensor.dtype.itemsize == 0
            else:
                assert tensor.dtype == ir.DataType.INT64 or len(tensor.shape) == 0


def test_no_path_of_this_machine_gets_into_the_graph(encoders: Path) -> None:
    graph = (encoders / "bert.fp32" / "traced.fp32.padded.onnx").read_bytes()
    assert b"/site-packages/" not in graph and str(encoders).encode() not in graph


def test_a_model_whose_tracer_puts_constants_beside_the_file(encoders: Path) -> None:
    assert value(encoders / "external.fp32", RECORD) == value(encoders / "modernbert-cls.fp32", RECORD)


def test_a_checkpoint_as_transformers_5_saves_it(encoders: Path) -> None:
    folder = encoders / "transformers-5"
    assert "global_rope_theta" not in json.loads((folder / "config.json").read_text())
    rng = random.Random(0)
    record = {"prompt": text(rng, 30, 30), "response": text(rng, 30, 30)}
    encoded = AutoTokenizer.from_pretrained(folder)(record["prompt"], record["response"], return_tensors="pt")
    with torch.no_grad():
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        expected = model(encoded["input_ids"]).logits.item()
    assert value(encoders / "transformers-5.auto", record) == pytest.approx(expected, abs=1e-4)


def test_weights_that_are_missing_are_not_made_up(encoders: Path) -> None:
    message = (encoders / "lacking.fp32.error").read_text()
    assert message.startswith("CheckpointError") and "lacks 1 weights of BertForSequenceClassification" in message
    assert "bert.encoder.layer.1.output.dense.weight" in message


def test_tensors_of_another_class_are_an_error(encoders: Path) -> None:
    message = (encoders / "foreign.fp32.error").read_text()
    assert message.startswith("CheckpointError") and "does not read 1 tensors" in message
    assert "regression_layer.weight" in message


def test_what_is_left_of_pretraining_is_passed_over(encoders: Path) -> None:
    assert value(encoders / "pretrained.fp32", RECORD) == value(encoders / "bert.fp32", RECORD)


def test_hashes_of_all_sources_where_asked_for(encoders: Path) -> None:
    sources = Bundle.open(encoders / "pretrained.fp32").manifest.source.files
    assert "model.safetensors" in {record.name for record in sources}
    assert all(record.sha256 for record in sources)


def test_weights_beyond_fp16_are_named(encoders: Path) -> None:
    message = (encoders / "large.fp16.error").read_text()
    assert message.startswith("CheckpointError") and "--dtype bf16" in message
    assert "bert.encoder.layer.1.output.dense.weight_transposed hold values" in message


@pytest.mark.parametrize("name", ["bert", "deberta-v3", "distilbert", "modernbert-mean", "xlm-roberta"])
def test_the_reference_is_the_same_in_both_generations_of_transformers(encoders: Path, name: str) -> None:
    job: dict[str, Any] = json.loads((encoders / f"{name}.reference.json").read_text())
    assert job["transformers"].startswith("4.")
    source = open_checkpoint(str(encoders / name))
    spec = read_encoder_spec(source, ExportOptions())
    sequences = [
        TokenSequence(ids=np.array(ids), types=np.array(types), reads={})
        for ids, types in ([[5, 17, 250, 9], [0, 0, 1, 1]], [[30] * 40, [0] * 40])
    ]
    for dtype, tolerance in (("fp32", 1e-5), ("bf16", 0.2)):  # bf16 has 8 bits and the classes are written anew
        found = encoder_reference(source, spec, sequences, dtype)["score"]
        assert found.tolist() == pytest.approx(job[dtype], abs=tolerance)
