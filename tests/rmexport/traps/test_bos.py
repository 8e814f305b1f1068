"""Traps of the first token: two BOS, a BOS that is masked and not removed, models trained without any."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from conversations import messages_of, ragged_records
from family_checkpoints import command_scores, forget_lengths
from reward_trunks import TOLERANCE, chat_ids
from rmexport import ExportOptions, export
from rmexport.cli import main
from rmruntime.bundle.manifest import BosPolicy
from tiny_checkpoints import TinyShape, sequence_classifier
from tiny_tokenizer import BOS, TEMPLATES, build_tokenizer

RECORDS = ragged_records(6, seed=11)


def test_double_bos(tmp_path: Path, scored: Any, logit: Any, escapes: Any) -> None:
    """The template writes one and the tokenizer adds another: two, in code that renders first and tokenizes then."""
    checkpoint = sequence_classifier(tmp_path / "checkpoint")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder)
    texts = [tokenizer.apply_chat_template(messages_of(record), tokenize=False) for record in RECORDS]
    once = [chat_ids(checkpoint, record) for record in RECORDS]
    twice = [tokenizer(text)["input_ids"] for text in texts]
    assert twice == [[checkpoint.tokenizer.bos_id, *ids] for ids in once]
    expected, trapped = ([logit(checkpoint.model, ids) for ids in side] for side in (once, twice))
    rendered = [{"text": text} for text in texts]
    for bos in ("as-is", "one"):
        scores = scored(checkpoint, [*RECORDS, *rendered], ExportOptions(bos=bos))
        escapes(scores, 2 * expected, 2 * trapped)
    doubled = [{"text": BOS + text} for text in texts]
    escapes(scored(checkpoint, doubled, ExportOptions(recipe="mahalo")), expected, trapped)


def test_a_template_that_writes_two_bos(tmp_path: Path) -> None:
    """`as-is` keeps both, as transformers does, and says so; no other policy does either."""
    checkpoint = sequence_classifier(tmp_path / "checkpoint")
    build_tokenizer(checkpoint.folder, chat_template=BOS + TEMPLATES["llama3"].lstrip())
    policies: dict[str, BosPolicy | None] = {"default": None, "one": "one", "zero": "zero"}
    notes = {
        name: export(str(checkpoint.folder), tmp_path / name, ExportOptions(bos=bos)).notes
        for name, bos in policies.items()
    }
    told = {
        bos: any("twice in front" in note and "--bos one" in note for note in found) for bos, found in notes.items()
    }
    assert told == {"default": True, "one": False, "zero": False}


@pytest.mark.parametrize("rope", ["default", "dynamic"])
def test_masking_the_first_bos_is_not_removing_it(
    tmp_path: Path, scored: Any, logit: Any, escapes: Any, rope: str
) -> None:
    """reward-bench masks the first of two BOS, which leaves all positions shifted by one.

    Rotary angles depend on distances alone, so that costs nothing until frequencies depend on the sequence's length.
    """
    extra = {"rope_scaling": {"rope_type": "dynamic", "factor": 16.0}} if rope == "dynamic" else {}
    positions = 16 if rope == "dynamic" else 512
    checkpoint = sequence_classifier(tmp_path / "c", TinyShape(max_position_embeddings=positions, extra=extra))
    records = [record for record in RECORDS if len(chat_ids(checkpoint, record)) < 256]
    expected, masked = [], []
    for ids in (chat_ids(checkpoint, record) for record in records):
        forget_lengths(checkpoint.model)
        expected.append(logit(checkpoint.model, ids))
        forget_lengths(checkpoint.model)
        doubled = torch.tensor([[checkpoint.tokenizer.bos_id, *ids]])
        mask = torch.ones_like(doubled)
        mask[0, 0] = 0
        with torch.no_grad():
            masked.append(checkpoint.model(input_ids=doubled, attention_mask=mask).logits.item())
    scores = scored(checkpoint, records)
    if rope == "dynamic":
        escapes(scores, expected, masked)
    else:
        np.testing.assert_allclose([score.value for score in scores], expected, atol=TOLERANCE)
        np.testing.assert_allclose(masked, expected, atol=TOLERANCE)


def test_zero_bos_training(tmp_path: Path, scored: Any, logit: Any, escapes: Any) -> None:
    """FsfairX-era models on Llama 3 were trained without BOS, which their template writes nevertheless."""
    checkpoint = sequence_classifier(tmp_path / "checkpoint")
    ids = [chat_ids(checkpoint, record) for record in RECORDS]
    assert {row[0] for row in ids} == {checkpoint.tokenizer.bos_id}
    expected = [logit(checkpoint.model, row[1:]) for row in ids]
    trapped = [logit(checkpoint.model, row) for row in ids]
    escapes(scored(checkpoint, RECORDS, ExportOptions(recipe="fsfairx", bos="zero")), expected, trapped)
    arguments = ["export", str(checkpoint.folder), str(tmp_path / "b"), "--recipe", "fsfairx", "--bos", "zero"]
    assert main(arguments) == 0
    found = command_scores(tmp_path / "b", RECORDS, "ort-cpu")
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)
