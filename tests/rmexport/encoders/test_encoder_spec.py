"""What is understood of an encoder's checkpoint without its weights, and which checkpoints are refused."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from rmexport import CheckpointError, ExportOptions, OptionError, UnsupportedModel
from rmexport.checkpoint import open_checkpoint
from rmexport.encoders import EncoderSpec, is_encoder, read_encoder_spec, store_encoder

BERT: Mapping[str, Any] = {
    "architectures": ["BertForSequenceClassification"],
    "model_type": "bert",
    "hidden_size": 4,
    "num_hidden_layers": 2,
    "vocab_size": 400,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
}
ROBERTA: Mapping[str, Any] = {
    **BERT,
    "architectures": ["XLMRobertaForSequenceClassification"],
    "model_type": "xlm-roberta",
    "max_position_embeddings": 514,
    "pad_token_id": 1,
}
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, pair_tokenizer: Callable[..., dict[str, int]]) -> Write:
    """A checkpoint folder with hardly any weights."""

    def make(config: Mapping[str, Any] = BERT, *, classifier: str = "classifier", rows: int = 1) -> Path:
        pair_tokenizer(tmp_path)
        (tmp_path / "config.json").write_text(json.dumps(config))
        weights = {f"{classifier}.weight": np.ones((rows, 4), np.float32), "other": np.ones(3, np.float16)}
        save_file(weights | {"position_ids": np.arange(512)}, tmp_path / "model.safetensors")
        return tmp_path

    return make


def read(folder: Path, options: ExportOptions | None = None) -> EncoderSpec:
    return read_encoder_spec(open_checkpoint(str(folder)), options or ExportOptions())


def test_bert(write: Write) -> None:
    spec = read(write())
    assert (spec.dtype, spec.pad_id, spec.score, spec.head_name) == ("fp32", 0, "score", "sequence_classification")
    assert (spec.backbone.max_length, spec.backbone.num_layers, spec.backbone.hidden_size) == (512, 2, 4)
    assert spec.format.layout == "text_pair" and spec.format.template is None
    assert [len(ids) for ids in spec.format.pair_ids] == [1, 1, 1] and spec.format.pair_types == (0, 0, 0, 1, 1)
    assert "raw logits" in spec.notes[0]


def test_roberta_counts_positions_from_its_pad_id_and_reads_no_types(write: Write) -> None:
    spec = read(write(ROBERTA, classifier="classifier.out_proj"))
    assert (spec.pad_id, spec.backbone.max_length, spec.format.pair_types) == (1, 512, ())


def test_distilbert_has_names_of_its_own(write: Write) -> None:
    names = {"architectures": ["DistilBertForSequenceClassification"], "model_type": "distilbert"}
    backbone = read(write({**BERT, **names, "dim": 6, "n_layers": 3})).backbone
    assert (backbone.hidden_size, backbone.num_layers) == (6, 3)


def test_deberta_has_types_only_where_its_config_says_so(write: Write) -> None:
    names = {"architectures": ["DebertaV2ForSequenceClassification"], "model_type": "deberta-v2"}
    assert read(write({**BERT, **names})).format.pair_types == ()
    assert read(write({**BERT, **names, "type_vocab_size": 2})).format.pair_types == (0, 0, 0, 1, 1)


def test_labels(write: Write) -> None:
    named = {**BERT, "id2label": {"0": "bad", "1": "good"}}
    assert read(write(named, rows=2)).score is None
    spec = read(write(named, rows=2), ExportOptions(score_label="good"))
    assert (spec.labels, spec.score_row, spec.score) == (("bad", "good"), 1, "score")
    assert [output.name for output in spec.outputs] == ["score", "rewards"]
    with pytest.raises(OptionError, match=r"'fine' is none of .* bad, good"):
        read(write(named, rows=2), ExportOptions(score_label="fine"))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"architectures": ["BertForMaskedLM"]}, False),
        ({"architectures": None}, False),
        ({"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]}, False),
    ],
)
def test_is_encoder(changes: dict[str, Any], expected: bool) -> None:
    assert is_encoder({**BERT, **changes}) is expected


def test_another_class_under_a_known_model_type_is_refused(write: Write) -> None:
    with pytest.raises(UnsupportedModel, match=r"JinaBertForSequenceClassification .* expected BertForSeq"):
        read(write({**BERT, "architectures": ["JinaBertForSequenceClassification"]}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantization_config": {"bits": 4}}, "quantized"),
        ({"pad_token_id": -1}, "pad_token_id is -1"),
        ({"type_vocab_size": 1}, "token types up to 1"),
        ({"max_position_embeddings": None}, "max_position_embeddings"),
    ],
)
def test_unusable_configs(write: Write, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read(write({**BERT, **changes}))


def test_an_encoder_without_a_classifier(write: Write) -> None:
    with pytest.raises(CheckpointError, match="no classifier"):
        read(write(classifier="pooler"))


@pytest.mark.parametrize(
    "given",
    [{"weights": "link"}, {"quantize": "int8"}, {"bos": "one"}, {"recipe": "mahalo"}, {"max_shard_size": "5GB"}],
)
def test_options_that_an_encoder_cannot_have(write: Write, given: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(given)).replace("_", "-")):
        read(write(), ExportOptions(**given))


def test_without_optimum_the_extra_is_named(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "optimum", None)
    monkeypatch.setitem(sys.modules, "optimum.exporters.onnx", None)
    folder = write()
    with pytest.raises(UnsupportedModel, match=r"rmexport\[optimum\]"):
        store_encoder(open_checkpoint(str(folder)), read(folder), folder, ExportOptions())
    assert not list(folder.glob(".traced-*"))
