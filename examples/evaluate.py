"""Held-out accuracy of a stored checkpoint: one conversation at a time, in FP32, each with exactly one BOS."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from build_tokenizer import ASSISTANT_HEADER
from reward_model import RewardModel, header_start
from transformers import PreTrainedTokenizerBase


def pair_accuracy(
    model: RewardModel, tokenizer: PreTrainedTokenizerBase, records: Sequence[Mapping[str, Any]]
) -> float:
    """Share of the pairs whose chosen answer scores above the rejected one."""
    right = 0
    for record in records:
        prompt = record["prompt"]
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        chosen, rejected = (score(model, tokenizer, messages, record[side]) for side in ("chosen", "rejected"))
        right += chosen > rejected
    return right / len(records)


@torch.inference_mode()
def score(
    model: RewardModel, tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]], answer: str
) -> float:
    """Score one conversation. The chat template writes the BOS, so the tokenizer must not add another one."""
    conversation = [*messages, {"role": "assistant", "content": answer}]
    text = tokenizer.apply_chat_template(conversation, tokenize=False)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    header = tokenizer(ASSISTANT_HEADER, add_special_tokens=False)["input_ids"]
    gate_at, last_at = torch.tensor([header_start(ids, header)]), torch.tensor([len(ids) - 1])
    return float(model(torch.tensor([ids]), gate_at, last_at).score)
