"""A step's tag of several tokens is found by all of them, as they are in context, or refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rmexport import ExportOptions, export
from rmexport.errors import CheckpointError
from rmruntime import BundleError, InputError, RewardModel, ScoreOptions
from rmruntime.bundle.manifest import MANIFEST_NAME, decode_manifest, encode_manifest
from rmruntime.text.positions import check_spelling
from tampered_bundles import change_graphs, without_seal
from tiny_checkpoints import TinyCheckpoint, causal_lm
from tiny_tokenizer import BOS

TEMPLATE = "{% for m in messages %}{{ ('' if loop.first else ' ') + m['content'] }}{% endfor %}"
PROMPT, STEPS = "How many?", ["Two and two.", "That makes 4"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> TinyCheckpoint:
    return causal_lm(tmp_path_factory.mktemp("causal") / "checkpoint")


def exported(checkpoint: TinyCheckpoint, folder: Path, tag: str, **fields: Any) -> Path:
    """A process reward model that reads the end of `tag`."""
    own = {"name": "prm", "description": "d", "head": "token_logits", "tokens": ["+", "-"], "unit": "step"}
    own |= {"layout": "tagged_steps", "step_tag": tag, "step_joiner": "\n", "bos": "one", "template": TEMPLATE}
    (folder / "prm.json").write_text(json.dumps(own | fields))
    export(str(checkpoint.folder), folder / "bundle", ExportOptions(recipe=str(folder / "prm.json"), overwrite=True))
    return folder / "bundle"


@pytest.fixture(scope="module")
def bundle(checkpoint: TinyCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(checkpoint, tmp_path_factory.mktemp("tagged"), " [ки]")


@pytest.fixture(scope="module")
def model(bundle: Path) -> RewardModel:
    return RewardModel.load(bundle, device="ort-cpu")


def ids_of(model: RewardModel, text: str) -> list[int]:
    found: list[int] = model._request_tokenizer._tokenizer.encode(text).tolist()
    return found


def test_step_scores_are_those_at_the_end_of_each_whole_tag(model: RewardModel, checkpoint: TinyCheckpoint) -> None:
    text = f"{BOS}{PROMPT} " + "\n".join(f"{step} [ки]" for step in STEPS)
    ids, tag = ids_of(model, text), ids_of(model, " [ки]")
    assert len(tag) > 1 and ids.count(tag[-1]) == len(STEPS)
    ends = [i for i in range(len(ids)) if ids[i - len(tag) + 1 : i + 1] == tag]
    good, bad = (ids_of(model, token)[0] for token in "+-")
    with torch.no_grad():
        logits = checkpoint.model(torch.tensor([ids])).logits[0, ends]
    expected = torch.softmax(logits[:, [good, bad]], -1)[:, 0]
    for record in ({"text": text}, {"prompt": PROMPT, "steps": STEPS}, {"input_ids": ids}):
        [score] = model.score([record])
        np.testing.assert_allclose(score.steps, expected, atol=1e-4)  # type: ignore[union-attr]


def test_what_ends_like_the_tag_is_no_step(model: RewardModel) -> None:
    steps = ["Take x]", "so ки]", "[ки"]
    assert len(model.score_steps(PROMPT, steps).steps or ()) == 3
    [score] = model.score([{"text": f"{PROMPT} книги] ки] y] [ки]"}])
    assert len(score.steps) == 1  # type: ignore[union-attr,arg-type]


def test_a_tag_in_a_steps_own_text_or_lost_in_other_tokens_is_an_error(model: RewardModel) -> None:
    with pytest.raises(InputError, match="step 1 holds the tag"):
        model.score_steps(PROMPT, ["a [ки] b"])
    # "[[" and so on are other tokens than those of the tag: none must be passed over in silence.
    rule = replace(model.manifest.positions["score"], tokens=(1, 2))
    with pytest.raises(InputError, match=r"spells ' \[ки\]' 2 time.*but only 1 of them"):
        check_spelling(rule, np.array([3]), ["x [ки] y [ки]"])
    with pytest.raises(InputError, match="overlap"):
        check_spelling(rule, np.array([3, 4]), ["x"])


@pytest.mark.parametrize("side", ["left", "right"])
def test_truncation_through_a_tag_is_an_error(model: RewardModel, side: Any) -> None:
    text = f"{BOS}{PROMPT} one [ки]\ntwo [ки]"
    for limit in range(len(ids_of(model, text)) - 1, 1, -1):
        try:
            [score] = model.score([{"text": text}], ScoreOptions(truncate=side, max_length=limit))
        except InputError as error:
            assert "cuts off" in str(error)
            break
        assert len(score.steps) == 2  # type: ignore[union-attr,arg-type]
    else:
        raise AssertionError("no cut went through a tag")


def test_a_bundle_of_an_older_exporter_says_export_again(bundle: Path, tmp_path: Path) -> None:
    for path in bundle.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    manifest = decode_manifest((bundle / MANIFEST_NAME).read_bytes())
    rule = manifest.positions["score"]
    assert len(rule.tokens) > 1
    old = replace(manifest, positions={"score": replace(rule, tokens=rule.tokens[-1:])})
    (tmp_path / MANIFEST_NAME).write_bytes(encode_manifest(old))
    change_graphs(tmp_path, without_seal)
    with pytest.raises(BundleError, match=r"expected all of ' \[ки\]'.*export the bundle again"):
        RewardModel.load(tmp_path, device="ort-cpu")


@pytest.mark.parametrize(
    ("tag", "fields", "message"),
    [
        ("\n", {"step_joiner": ""}, "cannot be found by its tokens"),  # merges with a full stop
        ("\n", {"step_joiner": "\n"}, "cannot be found by its tokens"),  # merges with the joiner
        (" ки ", {"template": TEMPLATE.replace("m['content']", "m['content'] | trim")}, "expected it once, as given"),
        (" ки", {"template": TEMPLATE + " ки"}, "itself writes the steps' tag"),
    ],
)
def test_a_tag_that_its_neighbours_change_is_refused(
    checkpoint: TinyCheckpoint, tmp_path: Path, tag: str, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        exported(checkpoint, tmp_path, tag, **fields)


def test_a_reply_or_an_appended_text_that_merges_is_refused(checkpoint: TinyCheckpoint, tmp_path: Path) -> None:
    graded = {"layout": "graded_turns", "step_tag": None, "step_joiner": None, "template": None}
    with pytest.raises(CheckpointError, match="must be one token"):
        exported(checkpoint, tmp_path, "", **graded, reply="+ or not")
    plain = {"layout": "chat", "step_tag": None, "step_joiner": None, "unit": "sequence"}
    with pytest.raises(CheckpointError, match="cannot be found by its tokens"):
        exported(checkpoint, tmp_path, "", **plain, append="\n")
