"""Engine options are one value, from the command line to the backend."""

import argparse
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

import rmruntime.reward_model
from rmexport.cli import _parser
from rmexport.errors import OptionError as ExportOptionError
from rmexport.verify.options import VerifyOptions
from rmruntime import OptionError, RewardModel
from rmruntime.commands.engine_arguments import add_engine_arguments, engine_options
from rmruntime.options import EngineOptions
from rmruntime.score_file import FileOptions, load_model

GIVEN = ["--device", "cuda:1", "--precision", "bf16", "--dialect", "portable", "--stage-memory", "2GiB"]
READ = EngineOptions(device="cuda:1", precision="bf16", dialect="portable", stage_memory=2 << 30)


@pytest.mark.parametrize(
    ("command", "read"),
    [
        (
            ["score", "b", "in.jsonl", *GIVEN, "--threads", "3", "--check", "full"],
            replace(READ, threads=3, check="full"),
        ),
        (["score", "b", "in.jsonl"], EngineOptions()),
        (["verify", "b", "--checkpoint", "c", *GIVEN], READ),
        (["verify", "b", "--checkpoint", "c", "--stage-memory", "auto"], EngineOptions(stage_memory="auto")),
        (["bench", "b", "--device", "cpu", "--threads", "2"], EngineOptions(device="cpu", threads=2)),
        (["inspect", "b"], EngineOptions()),
    ],
)
def test_arguments_are_read_back_as_one_value(command: list[str], read: EngineOptions) -> None:
    assert engine_options(_parser().parse_args(command)) == read


def test_what_is_left_out_is_no_argument_and_what_is_wrong_is_named() -> None:
    parser = argparse.ArgumentParser()
    add_engine_arguments(parser, without=("threads", "check"))
    assert engine_options(parser.parse_args(GIVEN)) == READ
    with pytest.raises(SystemExit):
        parser.parse_args(["--threads", "2"])
    with pytest.raises(OptionError, match="stage memory: 'much' is no size"):
        engine_options(parser.parse_args(["--stage-memory", "much"]))


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[EngineOptions]:
    """What reaches the executors."""
    found: list[EngineOptions] = []

    def load_executor(bundle: Any, options: EngineOptions) -> None:
        found.append(options)
        raise OptionError("far enough")

    monkeypatch.setattr(rmruntime.reward_model, "load_executor", load_executor)
    monkeypatch.setattr(rmruntime.reward_model.Bundle, "open", lambda folder, check: check)
    return found


def test_the_same_value_reaches_the_executors(loaded: list[EngineOptions]) -> None:
    every = replace(READ, threads=3, check="full", memory_limit=9)
    keywords: dict[str, Any] = {field.name: getattr(every, field.name) for field in fields(every)}
    with pytest.raises(OptionError, match="far enough"):
        RewardModel.load("b", every)
    with pytest.raises(OptionError, match="far enough"):
        RewardModel.load("b", **keywords)
    with pytest.raises(OptionError, match="far enough"):
        load_model("b", FileOptions(input="in.jsonl", engine=every))
    assert loaded[0] is loaded[2] is every and loaded[1] == every


def test_an_engine_beside_its_keywords_is_refused() -> None:
    with pytest.raises(OptionError, match="found engine and keywords of its options"):
        RewardModel.load(Path("b"), EngineOptions(threads=2), device="cpu")
    wrong: Any = "cpu"
    with pytest.raises(OptionError, match="engine is 'cpu'"):
        RewardModel.load(Path("b"), wrong)


def test_fields_of_the_engine_may_be_given_and_read_as_those_of_its_holder() -> None:
    files = FileOptions(input="in.jsonl", device="cpu", threads=4)  # type: ignore[call-arg]
    assert files == FileOptions(input="in.jsonl", engine=EngineOptions(device="cpu", threads=4))
    assert replace(files, device="cuda").engine == EngineOptions(device="cuda", threads=4)
    wrong: dict[str, Any]
    for wrong in ({"stage_memory": -1}, {"engine": "cpu"}, {"engine": "cpu", "device": "cpu"}):
        with pytest.raises(OptionError, match=next(iter(wrong))):
            FileOptions(input="in.jsonl", **wrong)
        with pytest.raises(ExportOptionError, match=next(iter(wrong))):
            VerifyOptions(**wrong)
