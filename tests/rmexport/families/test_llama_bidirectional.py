"""Bidirectional Llama: every token sees all of its sequence, and the score is a mean over tokens."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from conversations import ragged_records
from family_checkpoints import command_records
from reward_trunks import COUNTS, HIDDEN, TOLERANCE, check_gate, normal, plain_ids, reward_trunk
from rmexport import ExportOptions, export
from rmexport.compile.compiled import _graph
from rmexport.errors import NotCompilable
from rmexport.verify.options import VerifyOptions
from rmexport.verify.run import verify
from rmruntime import BackendError, InputError, RewardModel, ScoreOptions
from rmruntime.bundle import Bundle
from rmruntime.records import parse_record
from tiny_checkpoints import TinyCheckpoint
from tiny_tokenizer import BOS

QUERY = "What is the sum of 1 and 2?"
DOCUMENTS = [record["response"] for record in ragged_records(17)]
CLASS = "LlamaBidirectionalForSequenceClassification"


def checkpoint_in(folder: Path, **config: Any) -> TinyCheckpoint:
    own = {"architectures": [CLASS], "model_type": "llama_bidirec", "pooling": "avg"}
    return reward_trunk(folder, {"score.weight": 4 * normal(1, HIDDEN, seed=3)}, own | config)


def published_ids(checkpoint: TinyCheckpoint, document: str) -> list[int]:
    """NeMo Automodel: the text of a pair through the tokenizer, which adds its BOS."""
    return plain_ids(checkpoint, f"{BOS}question:{QUERY} \n \n passage:{document}")


def published_score(checkpoint: TinyCheckpoint, ids: list[int], temperature: float = 1.0) -> float:
    """llama_bidirectional/model.py: no mask, the mean of the last hidden states, the classifier, the temperature."""
    size = len(ids)
    everything = torch.zeros(1, 1, size, size)  # an additive mask that masks nothing
    with torch.no_grad():
        states = checkpoint.model.model(input_ids=torch.tensor([ids]), attention_mask=everything).last_hidden_state
        weight = load_file(checkpoint.folder / "model.safetensors")["score.weight"]
        return (states[0].mean(dim=0) @ weight.T).item() / temperature


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_scores(tmp_path: Path, temperature: float) -> None:
    checkpoint = checkpoint_in(tmp_path / "checkpoint", temperature=temperature)
    export(str(checkpoint.folder), tmp_path / "bundle")
    ids = [published_ids(checkpoint, document) for document in DOCUMENTS]
    expected = [published_score(checkpoint, row, temperature) for row in ids]
    assert np.std(expected) > 0.01
    with torch.no_grad():
        causal = checkpoint.model.model(input_ids=torch.tensor([ids[0]])).last_hidden_state[0].mean(dim=0)
    weight = load_file(checkpoint.folder / "model.safetensors")["score.weight"]
    assert abs((causal @ weight.T).item() / temperature - expected[0]) > 10 * TOLERANCE  # the mask makes a difference
    for device in ("ort-cpu", "openvino"):
        with RewardModel.load(tmp_path / "bundle", device=device, precision="fp32") as model:
            [sequences] = model.encode([parse_record({"query": QUERY, "documents": DOCUMENTS})], ScoreOptions())
            assert [sequence.ids.tolist() for sequence in sequences] == ids  # type: ignore[union-attr] # no error
            alone = model.score([{"query": QUERY, "document": document} for document in DOCUMENTS])
            for count in COUNTS:
                [found] = model.score([{"query": QUERY, "documents": DOCUMENTS[:count]}])
                values = [score.value for score in found]  # type: ignore[union-attr] # a list
                assert values == [score.value for score in alone[:count]]  # type: ignore[union-attr] # bitwise
                np.testing.assert_allclose(np.array(values, float), expected[:count], atol=TOLERANCE, err_msg=device)
            best = model.rank(QUERY, DOCUMENTS, top=1)
            assert best[0].index == int(np.argmax(expected))
    [written] = command_records(tmp_path / "bundle", [{"query": QUERY, "documents": DOCUMENTS}], device)
    np.testing.assert_allclose(written["scores"], expected, atol=0.05)  # openvino may choose bf16


def test_long_documents_and_queries_of_several_blocks(tmp_path: Path) -> None:
    checkpoint = checkpoint_in(tmp_path / "checkpoint")
    export(str(checkpoint.folder), tmp_path / "bundle")
    documents = ["number sum good " * 40, "bad", "number sum good " * 39]
    expected = [published_score(checkpoint, published_ids(checkpoint, document)) for document in documents]
    with RewardModel.load(tmp_path / "bundle", device="ort-cpu") as model:
        [found] = model.score([{"query": QUERY, "documents": documents}])
        statistics = model.run([parse_record({"query": QUERY, "documents": documents})], ScoreOptions()).statistics
    np.testing.assert_allclose([score.value for score in found], expected, atol=TOLERANCE)  # type: ignore[union-attr]
    assert statistics.computed == statistics.given  # nothing is shared


def test_truncation_takes_the_document_alone(tmp_path: Path) -> None:
    checkpoint = checkpoint_in(tmp_path / "checkpoint")
    export(str(checkpoint.folder), tmp_path / "bundle")
    request = parse_record({"query": QUERY, "document": "number sum " * 60})
    with RewardModel.load(tmp_path / "bundle", device="ort-cpu") as model:
        options = ScoreOptions(max_length=80, truncate="right")
        [[cut]] = model.encode([request], options)  # type: ignore[misc] # no error
        [score] = model.score([{"query": QUERY, "document": "number sum " * 60}], options)
    assert cut.reads["score"].tolist() == list(range(80))
    assert score.value == pytest.approx(published_score(checkpoint, cut.ids.tolist()), abs=TOLERANCE)  # type: ignore[union-attr]


def test_verify(tmp_path: Path) -> None:
    checkpoint = checkpoint_in(tmp_path / "checkpoint")
    export(str(checkpoint.folder), tmp_path / "bundle")
    record = {"query": QUERY, "documents": DOCUMENTS}
    (tmp_path / "queries.jsonl").write_text(json.dumps(record) + "\n")
    options = VerifyOptions(data=tmp_path / "queries.jsonl", device="ort-cpu", reference_cache="off")
    report = verify(tmp_path / "bundle", str(checkpoint.folder), options)
    assert report.passed and report.sequences == len(DOCUMENTS)


@pytest.mark.parametrize("dtype", ["bf16", pytest.param("fp16", marks=pytest.mark.ladder)])
def test_parity_gate(tmp_path: Path, dtype: str) -> None:
    check_gate(checkpoint_in(tmp_path / "checkpoint"), tmp_path / "bundle", dtype)


def test_what_needs_causal_attention_is_refused(tmp_path: Path) -> None:
    checkpoint = checkpoint_in(tmp_path / "checkpoint")
    manifest = export(str(checkpoint.folder), tmp_path / "bundle")
    assert all(graph.past is None and not graph.causal and graph.attention == "rows" for graph in manifest.graphs)
    with pytest.raises(BackendError, match="no prefix cache: this model's tokens see those after them"):
        RewardModel.load(tmp_path / "bundle", device="ort-cpu", prefix_cache=1 << 20)
    with RewardModel.load(tmp_path / "bundle", device="ort-cpu") as model:
        assert not model.can_cache_prefixes
        with pytest.raises(InputError, match="request for a session, but in this model earlier tokens see later ones"):
            model.session(QUERY)


def test_engines_are_not_compiled(tmp_path: Path) -> None:
    """Their passes score few tokens; a mean reads all."""
    export(str(checkpoint_in(tmp_path / "checkpoint").folder), tmp_path / "bundle")
    with pytest.raises(NotCompilable, match="this model scores every token"):
        _graph(Bundle.open(tmp_path / "bundle"))


def test_stages(tmp_path: Path) -> None:
    checkpoint = checkpoint_in(tmp_path / "checkpoint")
    export(str(checkpoint.folder), tmp_path / "bundle", ExportOptions(stages=2))
    records = [{"query": QUERY, "documents": DOCUMENTS}]
    with RewardModel.load(tmp_path / "bundle", device="ort-cpu") as model:
        whole = model.score(records)
    with RewardModel.load(tmp_path / "bundle", device="ort-cpu", stage_memory=1 << 30) as model:
        assert model.score(records) == whole
