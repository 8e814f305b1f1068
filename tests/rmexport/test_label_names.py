"""Objective names: from the best place that fits."""

import pytest

from rmexport.errors import CheckpointError
from rmexport.label_names import label_names


def test_a_config_list_of_the_right_length_wins() -> None:
    config = {"objective_names": ["a", "b"], "id2label": {"0": "x", "1": "y"}}
    assert label_names(config, 2, stem="objective") == ("a", "b")


def test_a_config_list_of_another_length_is_passed_over() -> None:
    config = {"objective_names": ["a"], "id2label": {"0": "x", "1": "y"}}
    assert label_names(config, 2, stem="objective", published=("p", "q")) == ("p", "q")
    assert label_names(config, 2, stem="objective", published=("p",)) == ("x", "y")


@pytest.mark.parametrize("id2label", [None, {}, {"0": "LABEL_0", "1": "LABEL_1"}, {"0": "x"}, {"0": "x", "5": "y"}])
def test_filler_and_incomplete_id2label_give_numbered_names(id2label: object) -> None:
    assert label_names({"id2label": id2label}, 2, stem="label") == ("label_0", "label_1")


def test_integer_keys_are_read_too() -> None:
    assert label_names({"id2label": {1: "y", 0: "x"}}, 2, stem="label") == ("x", "y")


def test_repeated_names_are_refused() -> None:
    with pytest.raises(CheckpointError, match="twice"):
        label_names({"attributes": ["a", "a"]}, 2, stem="label")
