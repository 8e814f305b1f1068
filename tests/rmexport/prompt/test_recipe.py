"""Recipes: built in, found by repository, or a user's own file."""

import json
from pathlib import Path

import pytest

from rmexport.errors import OptionError
from rmexport.heads import heads
from rmexport.prompt.recipe import recipe_for, recipes


def test_built_in_recipes_name_known_heads_and_no_repository_twice() -> None:
    repos = [repo for recipe in recipes().values() for repo in recipe.repos]
    assert len(repos) == len(set(repos))
    assert {recipe.head for recipe in recipes().values()} <= set(heads())


def test_found_by_repository() -> None:
    found = recipe_for(None, "RLHFlow/Llama3.1-8B-PRM-Mistral-Data")
    assert found is not None and found.name == "rlhflow-prm" and found.unit == "step"
    assert recipe_for(None, "somebody/else") is None
    assert recipe_for(None, None) is None


def test_a_users_own_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"name": "mine", "head": "token_logits", "description": "d", "tokens": ["Y", "N"]}))
    found = recipe_for(str(path), None)
    assert found is not None and found.tokens == ("Y", "N")


def test_errors_name_the_nearest_and_the_field(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="did you mean 'rlhflow-orm'"):
        recipe_for("rlhflow_orm", None)
    path = tmp_path / "bad.json"
    path.write_text(json.dumps({"name": "bad", "head": "x", "description": "d", "toknes": []}))
    with pytest.raises(OptionError, match="toknes"):
        recipe_for(str(path), None)
    path.write_text(json.dumps({"name": "bad", "description": "d", "step_tag": "<s>"}))
    with pytest.raises(OptionError, match="step_tag, which only tagged_steps reads"):
        recipe_for(str(path), None)
    path.write_text(json.dumps({"name": "bad", "description": "d", "step_separators": ["\n"]}))
    with pytest.raises(OptionError, match="step_separators and unit 'sequence', which never splits"):
        recipe_for(str(path), None)
    with pytest.raises(OptionError, match=r"'absent\.json' is not a file"):
        recipe_for("absent.json", None)
    path.write_text("{")
    with pytest.raises(OptionError, match="cannot be read"):
        recipe_for(str(path), None)
