"""`verify --golden`: published scores, and bundles that have them or not."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rmexport import ExportOptions, export
from rmexport.cli import main
from rmexport.prompt.recipe import recipes
from rmexport.verify import published_scores
from rmruntime import RewardModel
from tiny_checkpoints import causal_lm

RECIPE = {
    "name": "own", "description": "d", "head": "token_logits", "token_ids": [7, 9], "layout": "query_document",
    "pieces": ["{{ instruction }}Q: {{ query }}\n", "D: {{ document }}", "\nRelevant:"],
}  # fmt: skip


def test_every_published_score_is_of_a_recipe() -> None:
    known = {repo for recipe in recipes().values() for repo in recipe.repos}
    for one in published_scores.published_scores():
        assert set(one.repos) <= known
        assert len(one.documents) == len(one.expected) > 0


def bundle_in(folder: Path) -> Path:
    (folder / "own.json").write_text(json.dumps(RECIPE))
    export(str(causal_lm(folder / "c").folder), folder / "bundle", ExportOptions(recipe=str(folder / "own.json")))
    return folder / "bundle"


def test_scores_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = bundle_in(tmp_path)
    with RewardModel.load(bundle, device="ort-cpu") as model:
        found = [one.details.logit or 0.0 for one in sorted(model.rank("a", ["b", "c"]), key=lambda one: one.index)]
    right = replace(
        published_scores.published_scores()[0],
        repos=("org/own",),
        query="a",
        documents=("b", "c"),
        expected=tuple(found),
    )
    wrong = replace(right, repos=("org/other",), expected=(found[0], found[1] + 0.01))
    monkeypatch.setattr(published_scores, "published_scores", lambda: (right, wrong))
    command = ["verify", str(bundle), "--device", "ort-cpu", "--golden"]
    assert main([*command, "org/own"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "passed"
    assert main([*command, "org/other", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert not report["passed"] and [one["document"] for one in report["comparisons"]] == ["b", "c"]
    assert main(command) == 2
    assert "found a bundle of a local folder, scores are published of org/own, org/other" in capsys.readouterr().err


def test_either_the_checkpoint_or_published_scores(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "bundle"]) == 2
    assert "verify needs --checkpoint" in capsys.readouterr().err
    assert main(["verify", "bundle", "--golden", "org/own", "--data", "records.jsonl"]) == 2
    assert "found --golden and --data, expected one of them" in capsys.readouterr().err
