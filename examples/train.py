"""Make the trained example from one seed: data, tokenizer, model, held-out files, and their accuracies.

python examples/train.py --out examples/armorm-tiny
"""

import argparse
import math
import random
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from answers import OBJECTIVES
from build_tokenizer import ASSISTANT_HEADER, BOS, EOS, PAD, save_tokenizer, train_tokenizer
from evaluate import pair_accuracy
from generate_data import MARGIN, Pair, draw_gate_couples, draw_pairs, pair_record, write_records
from reward_model import HeadConfig, RewardModel, header_start, load_checkpoint, save_checkpoint
from showcase import showcase_records
from torch import Tensor
from torch.nn import functional
from transformers import AutoTokenizer, LlamaConfig, LlamaModel, PreTrainedTokenizerBase

SEED = 7
THREADS = 1  # so small a model gains little from more, and sums do not depend on their number
VOCAB_SIZE, MAX_LENGTH = 2000, 2048
STEPS, PAIRS_PER_STEP, WARMUP = 800, 24, 20
LEARNING_RATE, SCALE_LEARNING_RATE = 3e-3, 3e-2
REGRESSION_WEIGHT = 10.0  # squared errors of values in [0, 1] are far smaller than log-likelihoods
# Subtracted from each reward per unit of content-detail, as ArmoRM does with verbosity; not from detail itself.
DETAIL_PENALTIES = (0.05, 0.0, 0.02, 0.03, 0.04, 0.06, 0.03, 0.05)

Row = tuple[list[int], int, tuple[float, ...], tuple[float, ...]]  # ids, index the gate reads, labels, weights
Batch = Sequence[tuple[Row, Row]]


def main() -> None:
    """Run every step in order."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder; data files go next to it")
    out: Path = parser.parse_args().out
    torch.set_num_threads(THREADS)
    torch.manual_seed(SEED)
    rng = random.Random(SEED)
    held_out = draw_pairs(950, rng, unique=True)
    couples = draw_gate_couples(60, rng)
    held_out_keys = {pair.prompt.key for pair in held_out} | {pair.prompt.key for c in couples for _, pair in c}
    training = draw_pairs(STEPS * PAIRS_PER_STEP, rng, exclude=held_out_keys)
    save_tokenizer(train_tokenizer(_texts(training), VOCAB_SIZE), out, MAX_LENGTH)
    tokenizer = AutoTokenizer.from_pretrained(out)

    model, heads = build_model(tokenizer)
    began = time.perf_counter()
    fit(model, _batches([_rows(pair, tokenizer) for pair in training], rng), tokenizer.pad_token_id)
    print(f"trained in {time.perf_counter() - began:.0f} s")
    save_checkpoint(model, heads, OBJECTIVES, out)

    pairs = [pair_record(f"{number:04d}", pair) for number, pair in enumerate(held_out)]
    gate_pairs = [pair_record(f"{n:03d}-{name}", pair) for n, couple in enumerate(couples) for name, pair in couple]
    write_records(out.parent / "pairs.jsonl", pairs)
    write_records(out.parent / "gate_pairs.jsonl", gate_pairs)
    write_records(out.parent / "conversations.jsonl", showcase_records())
    stored = load_checkpoint(out)
    for name, records in (("pairs", pairs), ("gate pairs", gate_pairs)):
        print(f"{name}: accuracy {pair_accuracy(stored, tokenizer, records):.2%} of {len(records)}")


def build_model(tokenizer: PreTrainedTokenizerBase) -> tuple[RewardModel, HeadConfig]:
    """A random model whose gate can choose from the start."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=MAX_LENGTH,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        bos_token_id=tokenizer.convert_tokens_to_ids(BOS),
        eos_token_id=tokenizer.convert_tokens_to_ids(EOS),
        pad_token_id=tokenizer.convert_tokens_to_ids(PAD),
        use_cache=False,
    )
    heads = HeadConfig(num_objectives=len(OBJECTIVES), gating_hidden_dim=64)
    model = RewardModel(LlamaModel(config), heads)
    with torch.no_grad():
        for layer in model.gating.layers:  # the usual init would fade out over four layers and learn slowly
            torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            torch.nn.init.zeros_(layer.bias)
        model.gating.layers[-1].weight.mul_(heads.gating_temperature / 2)  # the softmax divides by it
        model.gating.logit_scale.fill_(5.0)
        model.reward_transform_matrix[OBJECTIVES.index("content-detail")] -= torch.tensor(DETAIL_PENALTIES)
    return model, heads


def fit(model: RewardModel, batches: Sequence[Batch], pad: int) -> None:
    """One epoch: regression trains the rewards, preferences train the gate, both train the trunk."""
    scale = [model.gating.logit_scale]
    others = [p for name, p in model.named_parameters() if p.requires_grad and name != "gating.logit_scale"]
    optimizer = torch.optim.AdamW(
        [{"params": others, "lr": LEARNING_RATE}, {"params": scale, "lr": SCALE_LEARNING_RATE}],
        betas=(0.9, 0.98),
        weight_decay=0.01,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _learning_rate_factor)
    for step, batch in enumerate(batches):
        regression, preference = _losses(model, batch, pad)
        optimizer.zero_grad()
        (REGRESSION_WEIGHT * regression + preference).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 20 == 0 or step == STEPS - 1:
            print(f"step {step}: regression {regression:.4f}, preference {preference:.3f}", flush=True)


def _batches(pairs: list[tuple[Row, Row]], rng: random.Random) -> list[Batch]:
    """Pairs of similar length share a batch, which halves the padding; the batches come in random order."""
    pairs = sorted(pairs, key=lambda pair: max(len(row[0]) for row in pair) + rng.uniform(0, 10))
    batches = [pairs[start : start + PAIRS_PER_STEP] for start in range(0, len(pairs), PAIRS_PER_STEP)]
    rng.shuffle(batches)
    return batches


def _losses(model: RewardModel, batch: Batch, pad: int) -> tuple[Tensor, Tensor]:
    """Squared error of the rewards, and Bradley-Terry loss of the scores with the rewards held fixed.

    Every prompt judges all answers of the batch, not only its own two: whom it prefers follows from the labels, and
    one preference a prompt would teach the gate too slowly.
    """
    rows = [row for side in range(2) for row in (pair[side] for pair in batch)]
    width = max(len(row[0]) for row in rows)
    input_ids = torch.tensor([row[0] + [pad] * (width - len(row[0])) for row in rows])
    gate_at = torch.tensor([row[1] for row in rows])
    last_at = torch.tensor([len(row[0]) - 1 for row in rows])
    labels = torch.tensor([row[2] for row in rows])
    weights = torch.tensor([row[3] for row in rows[: len(batch)]])
    output = model(input_ids, gate_at, last_at)
    scores = model.combine(output.rewards.detach()[None], output.gates[: len(batch), None])  # (prompt, answer)
    utilities = weights @ labels.T
    losses = []
    for shift in range(1, len(rows) // 2, 4):
        gains = utilities - utilities.roll(shift, dims=1)
        margins = (scores - scores.roll(shift, dims=1)) * gains.sign()
        losses.append(-functional.logsigmoid(margins)[gains.abs() >= MARGIN])
    return functional.mse_loss(output.rewards, labels), torch.cat(losses).mean()


def _learning_rate_factor(step: int) -> float:
    """Linear warm-up, then a cosine down to zero."""
    progress = max(step - WARMUP, 0) / (STEPS - WARMUP)
    return min((step + 1) / WARMUP, 0.5 * (1 + math.cos(math.pi * progress)))


def _rows(pair: Pair, tokenizer: PreTrainedTokenizerBase) -> tuple[Row, Row]:
    """Token ids of both conversations."""
    header = tokenizer(ASSISTANT_HEADER, add_special_tokens=False)["input_ids"]
    prompt = tokenizer.apply_chat_template(pair.prompt.messages, tokenize=False, add_generation_prompt=True)
    ids = [
        tokenizer(f"{prompt}{answer.text}<|eot_id|>", add_special_tokens=False)["input_ids"]
        for answer in (pair.chosen, pair.rejected)
    ]
    gate, weights = header_start(ids[0], header), pair.prompt.weights
    return (ids[0], gate, pair.chosen.labels, weights), (ids[1], gate, pair.rejected.labels, weights)


def _texts(pairs: Sequence[Pair]) -> list[str]:
    """What the tokenizer learns from."""
    prompts = [message["content"] for pair in pairs for message in pair.prompt.messages]
    return [*prompts, *(answer.text for pair in pairs for answer in (pair.chosen, pair.rejected)), "user", "assistant"]


if __name__ == "__main__":
    main()
