"""SmolLM2-135M as a judge by its own logits: a recipe's template, two rows of tied embeddings, and quantized layers."""

from typing import Any

import pytest
from tokenizers import Tokenizer

from real_models import JUDGE, RUNS, real_checkpoint, runs_here
from rmruntime import RewardModel, ScoreOptions
from rmruntime.records import parse_record

pytestmark = pytest.mark.real
BF16 = tuple(run for run in RUNS if run[0] == "bf16")


@pytest.mark.parametrize(("dtype", "engine", "precision"), RUNS)
def test_parity(real_models: Any, dtype: str, engine: str, precision: str) -> None:
    if not runs_here(engine, precision):
        pytest.skip(f"{engine} has no {precision} products on this processor")
    bundle = real_models.bundle(JUDGE, dtype)
    real_models.check_parity(JUDGE, bundle, engine, precision)
    real_models.check_independence(JUDGE, bundle, engine, precision)


@pytest.mark.parametrize("scheme", ["int8", "int4"])
@pytest.mark.parametrize(("dtype", "engine", "precision"), BF16)
def test_quantized(real_models: Any, scheme: str, dtype: str, engine: str, precision: str) -> None:
    """int8 moves all log-odds alike, more than the loosest level bears, and hardly changes the order; int4 loses it."""
    if not runs_here(engine, precision):
        pytest.skip(f"{engine} has no {precision} products on this processor")
    bundle = real_models.bundle(JUDGE, dtype, scheme)
    report = real_models.verify(
        JUDGE, bundle, engine, precision, against="reference", quality="error=1,spearman=0.95,flips=0.15"
    )
    assert report.passed == (scheme == "int8")
    assert not any("finite" in check.name for check in report.checks)
    real_models.check_independence(JUDGE, bundle, engine, precision)


def test_the_tokens_are_those_of_the_rendered_conversation(real_models: Any) -> None:
    """Real merges, digits one by one, and special tokens that the template spells: no BOS is added, none lost."""
    record = {"prompt": "Add 12 and 30.", "response": "It's 42!"}
    text = (
        "<|im_start|>user\nQuestion: Add 12 and 30.\n\nReply: It's 42!\n\n"
        "Is this a good reply? Answer Yes or No.<|im_end|>\n<|im_start|>assistant\n"
    )
    tokenizer = Tokenizer.from_file(str(real_checkpoint(JUDGE) / "tokenizer.json"))
    with RewardModel.load(real_models.bundle(JUDGE, "bf16")) as model:
        [[sequence]] = model.encode([parse_record(record)], ScoreOptions())
    expected = tokenizer.encode(text, add_special_tokens=False)
    assert sequence.ids.tolist() == expected.ids
    assert [token for token in expected.tokens if token.isdigit()] == list("123042")
    assert expected.tokens.count("<|im_start|>") == 2 and expected.tokens[0] == "<|im_start|>"
