"""Traps behind the head: squashed scores, probabilities that say nothing, steps that lose their place."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForTokenClassification, pipeline

from conversations import messages_of, ragged_records, step_records
from reward_trunks import HIDDEN, TOLERANCE, chat_ids, final_states, normal, plain_ids, reward_trunk
from rmexport import ExportOptions
from rmexport.verify.options import VerifyOptions
from rmexport.verify.run import verify
from tiny_checkpoints import TinyCheckpoint, causal_lm, sequence_classifier, shaken
from tiny_tokenizer import BOS, build_tokenizer

RECORDS = ragged_records(8, seed=14)
TAG, SYSTEM = "<extra_0>", r"Please reason step by step, and put your final answer within \boxed{}."


def test_raw_logit_for_one_label(tmp_path: Path, scored: Any, escapes: Any) -> None:
    """The text-classification pipeline of transformers squashes the score of one label unless told not to."""
    checkpoint = sequence_classifier(tmp_path / "checkpoint")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder)
    texts = [tokenizer.apply_chat_template(messages_of(r), tokenize=False).removeprefix(BOS) for r in RECORDS]
    classify = pipeline("text-classification", model=checkpoint.model, tokenizer=tokenizer)
    expected = [found["score"] for found in classify(texts, function_to_apply="none")]
    trapped = [found["score"] for found in classify(texts)]
    np.testing.assert_allclose(trapped, torch.sigmoid(torch.tensor(expected)), atol=TOLERANCE)
    escapes(scored(checkpoint, RECORDS), expected, trapped)


def test_probabilities_compare_as_logits(tmp_path: Path, scored: Any) -> None:
    """In bf16, as published, good answers all have the probability 1; their log-odds still tell them apart."""
    checkpoint = causal_lm(tmp_path / "checkpoint")
    with torch.no_grad():
        checkpoint.model.lm_head.weight[[10, 12]] *= 12
    checkpoint.model.save_pretrained(checkpoint.folder)
    records = [record for record in ragged_records(24, seed=15) if isinstance(record["prompt"], str)]
    logits = torch.tensor([_reply_logits(checkpoint, record) for record in records])  # [n, 2], '+' and '-'
    odds = (logits[:, 0] - logits[:, 1]).numpy()
    probabilities = torch.softmax(logits.bfloat16(), dim=-1)[:, 0]
    certain = (probabilities == 1).numpy()
    assert certain.sum() > 1 and np.ptp(odds[certain]) > 1  # far apart, and the same probability
    scores = scored(checkpoint, records, ExportOptions(recipe="rlhflow-orm-deepseek"))
    np.testing.assert_allclose([score.logit for score in scores], odds, atol=TOLERANCE * np.abs(odds).max())
    assert len({score.logit for score in scores}) == len(records)
    report = verify(tmp_path / "bundle", str(checkpoint.folder), VerifyOptions(conversations=8))
    assert [check.name for check in report.checks] == ["logit: error in fp32"] and report.passed


def _reply_logits(checkpoint: TinyCheckpoint, record: dict[str, Any]) -> list[float]:
    """orm_evaluate.py: position -3 of the conversation that ends in the reply '+'."""
    turns = {"prompt": f"{record['prompt']} {record['response']}", "response": "+"}
    with torch.no_grad():
        logits = checkpoint.model(torch.tensor([chat_ids(checkpoint, turns)])).logits[0, -3, [10, 12]]
    found: list[float] = logits.tolist()
    return found


def qwen_prm(folder: Path) -> tuple[TinyCheckpoint, dict[str, torch.Tensor]]:
    """Qwen2.5-Math-PRM's head with logits so large that every probability is near 0 or 1; the tag is one token."""
    head = {"score.0.weight": normal(HIDDEN, HIDDEN), "score.0.bias": normal(HIDDEN, seed=1)}
    head |= {"score.2.weight": 800 * normal(2, HIDDEN, seed=5), "score.2.bias": torch.zeros(2)}
    checkpoint = reward_trunk(folder, head, {"architectures": ["Qwen2ForProcessRewardModel"]})
    for path in (folder / "tokenizer.json", folder / "tokenizer_config.json"):
        path.write_text(path.read_text().replace("[PAD]", TAG))
    return checkpoint, head


def make_step_rewards(probabilities: torch.Tensor, mask: torch.Tensor) -> list[float]:
    """search-and-learn's copy of the model card's code, for one row of probabilities [L, 2]."""
    masked = probabilities * mask[:, None]
    rewards: list[float] = masked[masked != 0].view(-1, 2)[:, 1].tolist()
    return rewards


def test_zero_probability_steps(tmp_path: Path, scored: Any) -> None:
    """The published code drops probabilities that underflow to 0, so that steps move up or the reshape fails."""
    checkpoint, w = qwen_prm(tmp_path / "checkpoint")
    tag, functional = plain_ids(checkpoint, TAG), torch.nn.functional
    records = [record for record in step_records(24, seed=16) if len(record["steps"]) > 2]
    expected, moved = [], 0
    for record in records:
        turns = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": record["prompt"]}]
        ids = chat_ids(checkpoint, {"prompt": turns, "response": TAG.join(record["steps"]) + TAG})
        states = final_states(checkpoint, ids)
        inner = torch.relu(functional.linear(states, w["score.0.weight"], w["score.0.bias"]))
        probabilities = functional.linear(inner, w["score.2.weight"], w["score.2.bias"]).softmax(-1)
        mask = torch.tensor(ids) == tag[0]
        expected.append(probabilities[mask, 1].tolist())
        try:
            moved += make_step_rewards(probabilities, mask) != expected[-1]
        except RuntimeError:  # an odd number of values is left
            moved += 1
    scores = scored(checkpoint, records)
    for score, steps in zip(scores, expected, strict=True):
        np.testing.assert_allclose(score.steps, steps, atol=10 * TOLERANCE)  # their logits are in the hundreds
    assert moved > 1
    assert any(0.0 in steps and max(steps) > 0.5 for steps in expected)


@pytest.mark.parametrize("labels", [2, 1])
def test_token_classification_bias(tmp_path: Path, scored: Any, labels: int) -> None:
    """transformers gives a token classifier a bias, a sequence classifier none: TRL's two labels, veRL's one value."""
    tiny = build_tokenizer(tmp_path / "checkpoint")
    config = LlamaConfig(
        vocab_size=tiny.vocab_size, num_labels=labels, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, bos_token_id=tiny.bos_id, eos_token_id=tiny.eos_id,
    )  # fmt: skip
    model = shaken(LlamaForTokenClassification(config), torch.float32)
    with torch.no_grad():
        model.score.bias[-1] += 1
    model.save_pretrained(tiny.folder)
    checkpoint = TinyCheckpoint(tiny.folder, tiny, model)
    records = RECORDS if labels == 1 else step_records(8, seed=17)
    found = [value for score in scored(checkpoint, records) for value in score.step_logits or (score.value,)]
    rows = [_read_rows(checkpoint, record, labels) for record in records]
    expected = torch.cat(rows)
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)
    bias = model.score.bias.detach()
    assert float((bias[-1] - bias[0] if labels == 2 else bias[0]).abs()) > 0.1  # without it, all are so far off


def _read_rows(checkpoint: TinyCheckpoint, record: dict[str, Any], labels: int) -> torch.Tensor:
    """transformers' log-odds at the separator behind each step, or the one value at the last token."""
    if labels == 1:
        ids = chat_ids(checkpoint, record)
        ends = [len(ids) - 1]
    else:
        ids, ends = [checkpoint.tokenizer.bos_id, *plain_ids(checkpoint, record["prompt"])], []
        for step in record["steps"]:
            ids += [*plain_ids(checkpoint, step), *plain_ids(checkpoint, "\n")]
            ends.append(len(ids) - 1)
    with torch.no_grad():
        logits: torch.Tensor = checkpoint.model(torch.tensor([ids])).logits[0, ends]
    return logits[:, 0] if labels == 1 else logits[:, 1] - logits[:, 0]
