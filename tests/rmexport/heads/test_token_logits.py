"""The recipes that read a causal LM's logits: math-shepherd, Nemotron and the pair preference model."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conversations import messages_of, ragged_records, step_records
from reward_trunks import TOLERANCE, chat_ids, check_gate, check_steps, plain_ids, tokenizer_of
from rmexport import ExportOptions, export
from rmexport.errors import OptionError
from rmexport.prompt.recipe import recipes
from rmruntime import RewardModel, Score
from tiny_checkpoints import TinyCheckpoint, TinyShape, causal_lm

# The chat template that the published scripts give the tokenizer to write the context with.
PUBLISHED_CONTEXT = (
    "\n{% for message in messages %}{% if loop.index0 % 2 == 0 %}\n\n<turn> user\n {{ message['content'] }}"
    "{% else %}\n\n<turn> assistant\n {{ message['content'] }}{% endif %}{% endfor %}\n\n\n"
)


def logits_of(checkpoint: TinyCheckpoint, ids: Sequence[int]) -> torch.Tensor:
    """[L, vocabulary]"""
    with torch.no_grad():
        logits: torch.Tensor = checkpoint.model(torch.tensor([list(ids)])).logits[0]
    return logits


def test_math_shepherd(tmp_path: Path) -> None:
    """The model card: `logits[:, :, candidate_tokens].softmax(-1)[:, :, 0]` where the id is the step tag's."""
    checkpoint = causal_lm(tmp_path / "checkpoint", TinyShape(extra={"vocab_size": 700}))
    tag = plain_ids(checkpoint, " ки")[-1]
    records, expected = step_records(17), []
    for record in records:
        output = "\n".join(f"{step} ки" for step in record["steps"])
        ids = [checkpoint.tokenizer.bos_id, *plain_ids(checkpoint, f"{record['prompt']} {output}")]
        scores = logits_of(checkpoint, ids)[:, [648, 387]].softmax(-1)[:, 0]
        expected.append(scores[torch.tensor(ids) == tag].tolist())
    assert [len(steps) for steps in expected] == [len(record["steps"]) for record in records]
    check_steps(checkpoint, tmp_path / "bundle", records, expected, recipe="math-shepherd")


def test_math_shepherd_splits_a_plain_response_at_its_tags(tmp_path: Path) -> None:
    checkpoint = causal_lm(tmp_path / "checkpoint", TinyShape(extra={"vocab_size": 700}))
    export(str(checkpoint.folder), tmp_path / "bundle", ExportOptions(recipe="math-shepherd"))
    steps = ["Step 1: the sum is 2.", "Step 2: the answer is 4."]
    tagged = "\n".join(f"{step} ки" for step in steps)
    records = [{"prompt": "What?", "steps": steps}, {"prompt": "What?", "response": tagged}]
    with RewardModel.load(tmp_path / "bundle", device="ort-cpu") as model:
        given, split = model.score(records)
    assert isinstance(given, Score) and isinstance(split, Score)
    assert given.steps == split.steps and given.steps is not None and len(given.steps) == 2


def test_ids_beyond_the_vocabulary_are_refused(tmp_path: Path) -> None:
    checkpoint = causal_lm(tmp_path / "checkpoint")  # smaller than math-shepherd's ids
    with pytest.raises(OptionError, match=r"'math-shepherd' reads the token ids \[648, 387\], this vocabulary has"):
        export(str(checkpoint.folder), tmp_path / "bundle", ExportOptions(recipe="math-shepherd"))


def test_nemotron_is_the_raw_logit_of_id_0(tmp_path: Path) -> None:
    checkpoint = causal_lm(tmp_path / "checkpoint")
    export(str(checkpoint.folder), tmp_path / "bundle", ExportOptions(recipe="nemotron"))
    records = ragged_records(17)
    expected = [logits_of(checkpoint, chat_ids(checkpoint, record))[-1, 0].item() for record in records]
    assert np.std(expected) > 0.05
    with RewardModel.load(tmp_path / "bundle", device="ort-cpu") as model:
        for count in (1, 3, 8, 17):
            found = [score.value for score in model.score(records[:count])]  # type: ignore[union-attr] # no pairs
            np.testing.assert_allclose(np.array(found, float), expected[:count], atol=TOLERANCE)


def published_comparison(
    checkpoint: TinyCheckpoint, prompt: Sequence[Mapping[str, str]], a: str, b: str
) -> tuple[list[int], float]:
    """The ids of the README of pair-pm, and the probability of "A"."""
    tokenizer = tokenizer_of(checkpoint.folder)
    context = tokenizer.apply_chat_template(list(prompt), chat_template=PUBLISHED_CONTEXT, tokenize=False)
    content = f"[CONTEXT] {context} [RESPONSE A] {a} [RESPONSE B] {b} \n"
    text = tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    ids = tokenizer.encode(text.replace(tokenizer.bos_token, ""), add_special_tokens=False)
    logit_a, logit_b = (logits_of(checkpoint, ids)[-1, tokenizer.encode(t, add_special_tokens=False)] for t in "AB")
    return ids, torch.sigmoid(logit_a - logit_b).item()


def test_pair_preference_asks_both_orders(tmp_path: Path) -> None:
    checkpoint = causal_lm(tmp_path / "checkpoint")
    export(str(checkpoint.folder), tmp_path / "bundle", ExportOptions(recipe="pair-preference"))
    records = ragged_records(17)
    pairs = [
        {"prompt": r["prompt"], "chosen": r["response"], "rejected": other["response"]}
        for r, other in zip(records, reversed(records), strict=True)
    ]
    with RewardModel.load(tmp_path / "bundle", device="ort-cpu") as model:
        for count in (1, 3, 8, 17):
            for pair, found in zip(pairs[:count], model.score(pairs[:count]), strict=True):
                prompt = messages_of({"prompt": pair["prompt"], "response": ""})[:-1]
                first_ids, first = published_comparison(checkpoint, prompt, pair["chosen"], pair["rejected"])
                second_ids, second = published_comparison(checkpoint, prompt, pair["rejected"], pair["chosen"])
                assert isinstance(found, list)
                chosen, rejected = found
                assert chosen.value == pytest.approx((first + 1 - second) / 2, abs=TOLERANCE)
                assert rejected.value == pytest.approx((second + 1 - first) / 2, abs=TOLERANCE)
                assert chosen.tokens == len(first_ids) + len(second_ids)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ prompt }} {{ a }} {{ b }}", r"leaves out the prompt's turns \(messages\): it is Jinja text"),
        ("{{ messages[0]['content'] }} {{ a }}", "leaves out the answer b: it is Jinja text"),
        ("{{ messages[0]['content'] }} {{ a }} {{ b }", "cannot be rendered: the chat template does not compile"),
    ],
)
def test_a_comparison_that_does_not_show_all_of_it_is_refused(tmp_path: Path, template: str, message: str) -> None:
    """Jinja writes nothing for a name that it does not know: the judge would compare answers to no question."""
    checkpoint = causal_lm(tmp_path / "checkpoint")
    recipe = {"name": "own", "description": "d", "head": "token_logits", "tokens": ["A", "B"], "layout": "preference"}
    (tmp_path / "own.json").write_text(json.dumps(recipe | {"preference_template": template}))
    with pytest.raises(OptionError, match=message):
        export(str(checkpoint.folder), tmp_path / "bundle", ExportOptions(recipe=str(tmp_path / "own.json")))


def test_look_alikes_name_their_own_ids_in_a_recipe_file(tmp_path: Path) -> None:
    """Other math-shepherd style models have other ids: they are parameters."""
    checkpoint = causal_lm(tmp_path / "checkpoint")
    own = json.loads(json.dumps(asdict(recipes()["math-shepherd"]))) | {"name": "own", "token_ids": [12, 10]}
    path = tmp_path / "own.json"
    path.write_text(json.dumps(own | {"unit": "sequence", "layout": "chat", "step_tag": None, "step_separators": []}))

    def ids_of(checkpoint: TinyCheckpoint, record: Mapping[str, Any]) -> list[int]:
        text = " ".join(message["content"] for message in messages_of(dict(record)))
        return [checkpoint.tokenizer.bos_id, *plain_ids(checkpoint, text)]

    export(str(checkpoint.folder), tmp_path / "bundle", ExportOptions(recipe=str(path)))
    records = ragged_records(3)
    with RewardModel.load(tmp_path / "bundle", device="ort-cpu") as model:
        found = [score.value for score in model.score(records)]  # type: ignore[union-attr] # no pairs
    for record, value in zip(records, found, strict=True):
        logits = logits_of(checkpoint, ids_of(checkpoint, record))[-1, [12, 10]]
        assert value == pytest.approx(logits.softmax(-1)[0].item(), abs=TOLERANCE)


@pytest.mark.ladder
@pytest.mark.parametrize("recipe", ["math-shepherd", "nemotron"])
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_parity_gate(tmp_path: Path, dtype: str, recipe: str) -> None:
    checkpoint = causal_lm(tmp_path / "checkpoint", TinyShape(extra={"vocab_size": 700}))
    check_gate(checkpoint, tmp_path / "bundle", dtype, recipe)
