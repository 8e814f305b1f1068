"""Reward models on a tiny Llama in the published tensor names, and the comparison that every head must pass."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from conversations import messages_of, ragged_records
from family_checkpoints import command_records, command_scores
from rmexport import ExportOptions, export
from rmexport.checkpoint import open_checkpoint
from rmexport.spec import ModelSpec, read_spec
from rmexport.verify.options import VerifyOptions
from rmexport.verify.run import verify
from rmruntime import RewardModel
from tiny_checkpoints import TinyCheckpoint, TinyShape, causal_lm

TOLERANCE = 1e-4  # absolute, on scores of magnitude about 1: the parity gate's fp32 rule
COUNTS = (1, 3, 8, 17)
HIDDEN = TinyShape().hidden_size

Formula = Callable[[torch.Tensor], torch.Tensor]  # one token's final hidden state [hidden] -> its score []


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    """Seeded weights that make scores of magnitude about 1."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * HIDDEN**-0.5


def reward_trunk(
    folder: Path,
    head: Mapping[str, torch.Tensor],
    config: Mapping[str, Any],
    *,
    prefixes: Sequence[str] = ("model.",),
    template: str | None = None,
) -> TinyCheckpoint:
    """A Llama with `head` beside its backbone and `config` over its own config.json.

    The backbone lies under each of `prefixes`; `template` replaces the tokenizer's chat template. The model returned is
    the causal LM that holds the backbone.
    """
    checkpoint = causal_lm(folder)
    backbone = checkpoint.model.model.state_dict().items()
    tensors = {f"{prefix}{name}": value.clone() for prefix in prefixes for name, value in backbone}
    save_file(tensors | {name: value.contiguous() for name, value in head.items()}, folder / "model.safetensors")
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | dict(config)))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return checkpoint


def spec_of(checkpoint: TinyCheckpoint, recipe: str | None = None) -> ModelSpec:
    """What the exporter understands."""
    return read_spec(open_checkpoint(str(checkpoint.folder)), ExportOptions(recipe=recipe))


def final_states(checkpoint: TinyCheckpoint, ids: Sequence[int]) -> torch.Tensor:
    """transformers' final hidden states [L, hidden]."""
    with torch.no_grad():
        states: torch.Tensor = checkpoint.model.base_model(input_ids=torch.tensor([list(ids)])).last_hidden_state[0]
    return states


@cache
def tokenizer_of(folder: Path) -> Any:
    """transformers' tokenizer of a checkpoint folder, which is complete by now."""
    return AutoTokenizer.from_pretrained(folder)


def plain_ids(checkpoint: TinyCheckpoint, text: str) -> list[int]:
    """The ids of a text, without added special tokens."""
    ids: list[int] = tokenizer_of(checkpoint.folder)(text, add_special_tokens=False)["input_ids"]
    return ids


def chat_ids(checkpoint: TinyCheckpoint, record: Mapping[str, Any]) -> list[int]:
    """What apply_chat_template gives."""
    found: Any = tokenizer_of(checkpoint.folder).apply_chat_template(messages_of(dict(record)), return_tensors="pt")
    ids: torch.Tensor = found if isinstance(found, torch.Tensor) else found["input_ids"]  # 4.57 gives the tensor itself
    return ids[0].tolist()


def dialogues(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Ragged conversations without system turns, which many published prompts have no place for."""
    records = ragged_records(count, seed)
    return [r if isinstance(r["prompt"], str) else r | {"prompt": r["prompt"][1:]} for r in records]


def check_head(
    checkpoint: TinyCheckpoint,
    bundle: Path,
    formula: Formula,
    *,
    recipe: str | None = None,
    records: Sequence[dict[str, Any]] = tuple(ragged_records(max(COUNTS))),
    ids_of: Callable[[TinyCheckpoint, Mapping[str, Any]], list[int]] = chat_ids,
    position: Callable[[Sequence[int]], int] = lambda ids: len(ids) - 1,
) -> None:
    """Exported scores of ragged conversations, and the head's own reference, against `formula` at `position`."""
    spec = spec_of(checkpoint, recipe)
    weights = load_file(checkpoint.folder / "model.safetensors")
    export(str(checkpoint.folder), bundle, ExportOptions(recipe=recipe))
    ids = [ids_of(checkpoint, record) for record in records]
    states = torch.stack([final_states(checkpoint, row)[position(row)] for row in ids])
    expected = [formula(state).item() for state in states]
    assert np.std(expected) > 0.05  # random weights, but not all the same score
    own = spec.head.reference({"score": states}, weights)["score"]
    np.testing.assert_allclose(own.numpy(), expected, atol=TOLERANCE, err_msg="the head's own reference")
    with RewardModel.load(bundle, device="ort-cpu") as model:
        [alone] = model.score([records[0]])
        for count in COUNTS:
            found = [score.value for score in model.score(list(records[:count]))]  # type: ignore[union-attr] # no pairs
            assert found[0] == alone.value  # type: ignore[union-attr] # bitwise, whatever else is in the batch
            np.testing.assert_allclose(np.array(found, float), expected[:count], atol=TOLERANCE)
    assert found == command_scores(bundle, records[:count], "ort-cpu")


def check_gate(checkpoint: TinyCheckpoint, bundle: Path, dtype: Any, recipe: str | None = None) -> None:
    """`verify` of a 16-bit bundle: the engine and the head's reference on transformers' states.

    ort-cpu computes in fp32: in less, rank correlations of so few conversations on a tiny model are noise.
    """
    export(str(checkpoint.folder), bundle, ExportOptions(dtype=dtype, recipe=recipe))
    report = verify(bundle, str(checkpoint.folder), VerifyOptions(conversations=12, device="ort-cpu"))
    assert report.passed, report


def check_steps(
    checkpoint: TinyCheckpoint,
    bundle: Path,
    records: Sequence[Mapping[str, Any]],
    expected: Sequence[Sequence[float]],
    recipe: str | None = None,
) -> None:
    """Exported scores of every step of every solution."""
    export(str(checkpoint.folder), bundle, ExportOptions(recipe=recipe))
    for count in (1, max(COUNTS)):
        written = command_records(bundle, [dict(record) for record in records[:count]], "ort-cpu")
        assert len(written) == min(count, len(records))
        for found, steps in zip(written, expected, strict=False):
            np.testing.assert_allclose(found["step_scores"], steps, atol=TOLERANCE)
