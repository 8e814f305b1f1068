"""A score that is no number is its own record's error, and one of exactly 0 is flagged."""

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from rmexport import export
from rmruntime import InputError, RewardModel, Score, ScoreOptions
from rmruntime.cli import main
from rmruntime.errors import NonFiniteScore
from rmruntime.records import parse_record
from rmruntime.scores import score_from_outputs
from rmruntime.sequences import TokenSequence
from text_formats import classifier, grader
from tiny_checkpoints import sequence_classifier
from tiny_tokenizer import build_tokenizer

BAD = 40  # the token whose embedding is NaN
GOOD = [[50, 51, 52, 53, 60 + i, 70 + i, *range(80, 80 + 5 * i)] for i in range(7)]
ILL = [[BAD, 7, 8], [50, 51, 52, 53, BAD, 61], [50, 51, 52, 53, 60, 70, BAD]]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whose embedding of BAD was overwritten after the export, which would have refused it."""
    folder = tmp_path_factory.mktemp("ill")
    export(str(sequence_classifier(folder / "checkpoint").folder), folder / "bundle")
    for path in (folder / "bundle").glob("*.safetensors"):
        raw = bytearray(path.read_bytes())
        size = 8 + struct.unpack("<Q", raw[:8])[0]
        for name, info in json.loads(raw[8:size]).items():
            if "embed_tokens" in name:
                width = 4 * info["shape"][1]
                begin = size + info["data_offsets"][0] + BAD * width
                raw[begin : begin + width] = np.full(info["shape"][1], np.nan, np.float32).tobytes()
        path.chmod(0o644)
        path.write_bytes(raw)
    return folder / "bundle"


@pytest.fixture(scope="module")
def model(bundle: Path) -> RewardModel:
    return RewardModel.load(bundle)


def test_it_is_that_records_error_and_no_others(model: RewardModel) -> None:
    """Not of those that share a prefix with it, nor of those that stand in the same pass."""
    alone = [model.score([{"input_ids": ids}])[0] for ids in GOOD]
    records = [{"input_ids": ids} for ids in (*ILL, *GOOD, *ILL)]
    results = model.run([parse_record(record) for record in records], ScoreOptions()).results
    assert results[len(ILL) : -len(ILL)] == alone
    for result in (*results[: len(ILL)], *results[-len(ILL) :]):
        assert isinstance(result, NonFiniteScore) and "output 'score' is nan" in str(result)


def test_it_is_not_cached_for_others(bundle: Path, model: RewardModel) -> None:
    """Whatever was scored before: alone, in one pass, and all over again."""
    alone = [model.score([{"input_ids": ids}])[0] for ids in GOOD]
    requests = [parse_record({"input_ids": ids}) for ids in (*ILL, *GOOD, *ILL)]
    with RewardModel.load(bundle, prefix_cache="auto") as cached:
        for _ in range(2):
            results = cached.run(requests, ScoreOptions()).results
            assert results[len(ILL) : -len(ILL)] == alone
            one_by_one = [cached.run([request], ScoreOptions()).results[0] for request in requests]
            assert one_by_one[len(ILL) : -len(ILL)] == alone
            for result in (*results[: len(ILL)], *one_by_one[-len(ILL) :]):
                assert isinstance(result, NonFiniteScore)


def test_score_raises_it_with_the_records_index(model: RewardModel) -> None:
    with pytest.raises(InputError, match="record 1: output 'score' is nan, expected a finite number"):
        model.score([{"input_ids": GOOD[0]}, {"input_ids": ILL[0]}])


def test_the_file_keeps_all_other_scores(bundle: Path, tmp_path: Path, capsys: Any) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [{"id": f"r{i}", "input_ids": ids} for i, ids in enumerate((GOOD[0], ILL[1], GOOD[1]))]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    given = ["score", str(bundle), str(source), "-o", str(target)]
    assert main([*given, "--on-error", "skip"]) == 0
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert ["score" in row for row in rows] == [True, False, True] and "is nan" in rows[1]["error"]
    assert "1 records could not be scored" in capsys.readouterr().err
    target.unlink()
    assert main(given) == 2
    said = capsys.readouterr().err
    assert "record 1" in said and "is nan" in said and not target.exists()


def test_pairs_and_candidates_name_the_answer(model: RewardModel, monkeypatch: pytest.MonkeyPatch) -> None:
    token = model._request_tokenizer._tokenizer.text_of(BAD)
    records = [
        {"prompt": "a", "chosen": "b", "rejected": token},
        {"prompt": "a", "responses": ["b", "c", token]},
        {"prompt": "a", "steps": ["b", token]},
    ]
    results = model.run([parse_record(record) for record in records], ScoreOptions()).results
    starts = ("rejected: output", "responses[2]: output", "the first 2 step(s): output")
    assert [str(result).startswith(start) for result, start in zip(results, starts, strict=True)] == [True] * 3


@pytest.mark.parametrize(
    ("dtype", "precision", "advice"),
    [
        ("fp16", "fp16", "export with --dtype bf16 or fp32"),
        ("fp16", None, "export with --dtype bf16 or fp32"),
        ("bf16", "fp16", "run with --precision fp32"),
        ("fp32", "bf16", "run with --precision fp32"),
        ("bf16", "bf16", "no other dtype"),
        ("bf16", "fp32", "no other dtype"),
        ("fp32", "fp32", "the weights hold NaN or Inf"),
    ],
)
def test_the_advice_fits_the_dtype(tmp_path: Path, dtype: str, precision: str | None, advice: str) -> None:
    manifest = replace(classifier(build_tokenizer(tmp_path)), dtype=dtype)
    sequence = TokenSequence(ids=np.arange(3), reads={"score": np.array([2])})
    with pytest.raises(NonFiniteScore, match=advice):
        score_from_outputs(manifest, sequence, {"score": np.array([np.inf], np.float32)}, "mean", precision)


def test_a_score_of_exactly_0_is_flagged(tmp_path: Path) -> None:
    checkpoint = sequence_classifier(tmp_path / "checkpoint")
    path = checkpoint.folder / "model.safetensors"
    weights = load_file(path)
    save_file({k: v * 1e30 if "down_proj" in k else v for k, v in weights.items()}, path, metadata={"format": "pt"})
    export(str(checkpoint.folder), tmp_path / "bundle")
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(json.dumps({"prompt": "a", "response": "b"}) + "\n")
    assert main(["score", str(tmp_path / "bundle"), str(source), "-o", str(target)]) == 0
    row = json.loads(target.read_text())
    assert row["score"] == 0.0 and row["flags"][0].startswith("score of exactly 0.0")


def test_a_probability_is_flagged_by_its_log_odds(tmp_path: Path) -> None:
    manifest = grader(build_tokenizer(tmp_path), "step")
    sequence = TokenSequence(ids=np.arange(3), reads={"reply": np.array([1, 2])})
    outputs = {"score": np.array([0.5, 0.0], np.float32), "logit": np.array([0.0, -200.0], np.float32)}
    score = score_from_outputs(manifest, sequence, outputs, "mean")
    assert isinstance(score, Score) and "at 1 of 2 steps" in score.flags[0]
