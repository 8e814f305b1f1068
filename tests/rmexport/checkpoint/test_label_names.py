"""Objective names: from the first place that states any, which must be as many as there are outputs (2.10)."""

import json
from pathlib import Path
from typing import Any

import pytest

from config_files import rewrite_config
from rmexport import CheckpointError, ExportOptions, export
from rmexport.checkpoint.label_names import label_names
from tiny_checkpoints import gated, sequence_classifier


def test_a_config_list_wins() -> None:
    config = {"objective_names": ["a", "b"], "id2label": {"0": "x", "1": "y"}}
    assert label_names(config, 2, stem="objective") == ("a", "b")


@pytest.mark.parametrize("key", ["objective_names", "objectives", "attributes", "reward_names"])
def test_a_config_list_of_another_length_is_an_error(key: str) -> None:
    with pytest.raises(CheckpointError, match=rf"{key} has 1 names \(a\) and the weights have 2 outputs"):
        label_names({key: ["a"], "id2label": {"0": "x", "1": "y"}}, 2, stem="objective", published=("p", "q"))


@pytest.mark.parametrize("names", [[], "ab", {}, 2])
def test_objective_names_that_are_no_list_of_them(names: object) -> None:
    with pytest.raises(CheckpointError, match="objective_names"):
        label_names({"objective_names": names}, 2, stem="objective", published=("p", "q"))
    assert label_names({"objectives": names}, 3, stem="objective")[0] == "objective_0"  # may be about other things


def test_published_names_count_where_they_are_as_many() -> None:
    config = {"id2label": {"0": "x", "1": "y"}}
    assert label_names(config, 2, stem="objective", published=("p", "q")) == ("p", "q")
    assert label_names(config, 2, stem="objective", published=("p",)) == ("x", "y")


def test_names_of_a_recipe_must_be_as_many() -> None:
    assert label_names({}, 2, stem="objective", stated=("r", "s"), published=("p", "q")) == ("r", "s")
    with pytest.raises(CheckpointError, match=r"recipe: objectives has 3 names .* have 2 outputs"):
        label_names({}, 2, stem="objective", stated=("r", "s", "t"))


@pytest.mark.parametrize("id2label", [None, {}, {"0": "LABEL_0", "1": "LABEL_1"}, {"0": "LABEL_0"}])
def test_filler_gives_numbered_names(id2label: object) -> None:
    assert label_names({"id2label": id2label}, 2, stem="label") == ("label_0", "label_1")


@pytest.mark.parametrize(
    ("id2label", "words"),
    [
        ({"0": "x"}, r"id2label has 1 names \(x\) and the weights have 2 outputs"),
        ({"0": "x", "1": "y", "2": "z"}, "id2label has 3 names"),
        ({"0": "x", "5": "y"}, "indices 0, 5, expected 0 to 1"),
        ({"1": "x", "2": "y"}, "indices 1, 2, expected 0 to 1"),
        ({"0": "x", "1": "x"}, "names outputs twice"),
        ({"0": "x", "1": ""}, "not at all"),
        ({"0": "x", "1": None}, "expected names by index"),
        (["x", "y"], "expected an object"),
        ("xy", "expected an object"),
    ],
)
def test_id2label_that_does_not_fit(id2label: object, words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        label_names({"id2label": id2label}, 2, stem="label")


def test_integer_keys_are_read_too() -> None:
    assert label_names({"id2label": {1: "y", 0: "x"}}, 2, stem="label") == ("x", "y")


@pytest.mark.parametrize("names", [["a", "a"], ["a", 1], ["a", None], ["a", ""]])
def test_names_that_are_no_names_are_refused(names: list[Any]) -> None:
    with pytest.raises(CheckpointError, match=r"twice|expected a list of names"):
        label_names({"attributes": names}, 2, stem="label")


@pytest.mark.parametrize("names", [["a"] * 4, list("abcdef"), ["a"], list("abcda")])
def test_objective_names_of_the_wrong_count_are_errors(tmp_path: Path, names: list[str]) -> None:
    """They became objective_0, objective_1, ... without a word."""
    checkpoint = gated(tmp_path / "checkpoint")
    rewrite_config(checkpoint, {"objective_names": names})
    with pytest.raises(CheckpointError, match="objective_names"):
        export(str(checkpoint.folder), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_labels_of_the_wrong_count_are_errors(tmp_path: Path) -> None:
    checkpoint = sequence_classifier(tmp_path / "checkpoint", labels=3)
    rewrite_config(checkpoint, {"id2label": {"0": "bad", "1": "good"}})
    with pytest.raises(CheckpointError, match=r"id2label has 2 names \(bad, good\) and the weights have 3 outputs"):
        export(str(checkpoint.folder), tmp_path / "bundle")


def test_names_of_a_recipe_file_of_the_wrong_count(tmp_path: Path) -> None:
    checkpoint = gated(tmp_path / "checkpoint")
    rewrite_config(checkpoint, {}, without=["objective_names"])
    recipe = tmp_path / "mine.json"
    recipe.write_text(json.dumps({"name": "mine", "description": "d", "objectives": ["a", "b"]}))
    with pytest.raises(CheckpointError, match=r"recipe: objectives has 2 names \(a, b\) and the weights have 5"):
        export(str(checkpoint.folder), tmp_path / "bundle", ExportOptions(recipe=str(recipe)))
