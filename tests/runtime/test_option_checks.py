"""Every option of every kind is checked in one way, whatever is put into it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rmexport.bench.options import BenchOptions
from rmexport.compile.options import CompileOptions
from rmexport.diff.comparison import DiffOptions
from rmexport.errors import OptionError as ExportOptionError
from rmexport.options import ExportOptions
from rmruntime import OptionError, RewardModel, ScoreOptions
from rmruntime.cli import main
from rmruntime.cluster.options import ClusterOptions
from rmruntime.options import EngineOptions
from rmruntime.score_file import FileOptions

WRONG: list[tuple[type, dict[str, Any], str]] = [
    (ScoreOptions, {"aggregate": ["mean"]}, r"aggregate is \['mean'\], expected one of mean, min, last, prod"),
    (ScoreOptions, {"aggregate": np.zeros(2)}, "aggregate is array"),
    (ScoreOptions, {"truncate": "middle"}, "truncate is 'middle', expected one of left, right, None"),
    (ScoreOptions, {"truncate": True}, "truncate is True"),
    (ScoreOptions, {"strict_content": 1}, "strict_content is 1, expected True or False"),
    (ScoreOptions, {"max_length": True}, "max_length is True, expected a whole number, at least 1 or None"),
    (ScoreOptions, {"max_length": "5"}, "max_length is '5'"),
    (ScoreOptions, {"max_length": 5.0}, "max_length is 5.0"),
    (ScoreOptions, {"max_length": 10**5000}, "max_length is a number of thousands of digits, expected at most"),
    (ScoreOptions, {"max_batch_tokens": 0}, "max_batch_tokens is 0, expected at least 1"),
    (ScoreOptions, {"max_batch_tokens": float("nan")}, "max_batch_tokens is nan"),
    (EngineOptions, {"threads": 10**9}, r"threads is 1000000000, expected at most 1,024 \(more than any machine"),
    (EngineOptions, {"threads": -1}, "threads is -1, expected a number of threads, 0 for the engine's choice"),
    (EngineOptions, {"threads": True}, "threads is True"),
    (EngineOptions, {"threads": 2.0}, "threads is 2.0"),
    (EngineOptions, {"memory_limit": "x"}, "memory_limit is 'x', expected a number of bytes or None"),
    (EngineOptions, {"memory_limit": -1}, "memory_limit is -1"),
    (EngineOptions, {"memory_limit": False}, "memory_limit is False"),
    (EngineOptions, {"memory_limit": 1 << 70}, "memory_limit is .*expected at most"),
    (EngineOptions, {"device": None}, "device is None, expected a text"),
    (EngineOptions, {"device": 3}, "device is 3"),
    (EngineOptions, {"precision": "fp8"}, "precision is 'fp8', expected one of auto, fp32, bf16, fp16"),
    (EngineOptions, {"precision": {}}, "precision is {}"),
    (EngineOptions, {"dialect": 4}, "dialect is 4"),
    (EngineOptions, {"check": "ful"}, "check is 'ful', expected one of fast, full"),
    (EngineOptions, {"check": True}, "check is True"),
    (EngineOptions, {"stage_memory": "6GB"}, "stage_memory is '6GB', expected a number of bytes or 'auto'"),
    (EngineOptions, {"stage_memory": True}, "stage_memory is True"),
    (FileOptions, {"input": 3}, "input is 3"),
    (FileOptions, {"input": "x", "on_error": "ignore"}, "on_error is 'ignore', expected one of stop, skip"),
    (FileOptions, {"input": "x", "check": "ful"}, "check is 'ful'"),
    (ClusterOptions, {"workers": True}, "workers is True"),
    (ClusterOptions, {"workers": 0}, "workers is 0, expected at least 1"),
    (ClusterOptions, {"address": 3}, "address is 3"),
    (ClusterOptions, {"overwrite": "yes"}, "overwrite is 'yes'"),
    (ExportOptions, {"dtype": ["fp32"]}, r"dtype is \['fp32'\]"),
    (ExportOptions, {"stages": 10**9}, "stages is 1000000000, expected at most"),
    (ExportOptions, {"stages": "2"}, "stages is '2'"),
    (ExportOptions, {"overwrite": "x"}, "overwrite is 'x'"),
    (ExportOptions, {"max_shard_size": 5}, "max_shard_size is 5"),
    (ExportOptions, {"pinned_date": "never"}, "pinned_date is 'never', expected an ISO date"),
    (CompileOptions, {"max_sequences": 1 << 40}, "max_sequences is .*expected at most"),
    (CompileOptions, {"target": None}, "target is None"),
    (DiffOptions, {"revision_a": 3}, "revision_a is 3"),
    (BenchOptions, {"scenarios": "offline"}, "--scenario is 'offline', expected a list"),
    (BenchOptions, {"peers": ("vllm", 3)}, "--peer is"),
    (BenchOptions, {"seed": -1}, "--seed is -1"),
    (BenchOptions, {"threads": 10**9}, "--threads is 1000000000"),
    (BenchOptions, {"duration_s": "x"}, "--duration is 'x'"),
]


@pytest.mark.parametrize(("kind", "given", "words"), WRONG)
def test_a_wrong_value_is_named_with_what_is_expected(kind: type, given: dict[str, Any], words: str) -> None:
    with pytest.raises((OptionError, ExportOptionError), match=words):
        kind(**given)


def test_right_values_of_every_kind_are_taken() -> None:
    assert ScoreOptions(truncate="left", max_length=np.int64(5), aggregate="prod").max_length == 5
    assert type(ScoreOptions(max_length=np.int64(5)).max_length) is int  # JSON has no word for numpy's
    assert EngineOptions(memory_limit=0, stage_memory="auto", threads=1024).threads == 1024
    assert FileOptions(input=Path("x"), stage_memory=1).input == Path("x")


def test_options_are_checked_before_a_bundle_is_opened(tmp_path: Path) -> None:
    wrong: dict[str, Any]
    for wrong in ({"check": "ful"}, {"threads": -1}, {"memory_limit": "x"}, {"device": 0}):
        with pytest.raises(OptionError, match=next(iter(wrong))):
            RewardModel.load(tmp_path / "absent", **wrong)
    folder: Any = 7
    with pytest.raises(OptionError, match="folder is 7"):
        RewardModel.load(folder)


@pytest.mark.parametrize("flag", ["--threads=1000000000", "--threads=-1", "--max-length=0", "--max-batch-tokens=-5"])
def test_the_command_line_reaches_the_same_checks(tmp_path: Path, capsys: Any, flag: str) -> None:
    assert main(["score", str(tmp_path), str(tmp_path / "x.jsonl"), flag]) == 2
    assert flag.partition("=")[2].lstrip("-") in capsys.readouterr().err
