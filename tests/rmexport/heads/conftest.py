"""A tiny trunk with any head's tensors under their published names, and what transformers makes of its text."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer

from conversations import messages_of, ragged_records
from family_checkpoints import command_scores, family_checkpoint
from rmexport import ExportOptions, export
from rmexport.checkpoint import open_checkpoint
from rmexport.spec import ModelSpec, read_spec
from rmexport.verify.options import VerifyOptions
from rmexport.verify.report import table
from rmexport.verify.run import verify
from rmruntime import RewardModel, Score
from tiny_checkpoints import TinyCheckpoint, sequence_classifier

SHAPE: Mapping[str, Any] = {
    "hidden_size": 64,  # as the tiny Llama's
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
TOLERANCE = 1e-4  # absolute, on scores of magnitude about 1: the parity gate's fp32 rule
COUNTS = (1, 3, 8, 17)  # conversations at a time

Tensors = Mapping[str, torch.Tensor]
Reads = Callable[[list[int]], Mapping[str, int]]
Formula = Callable[[Tensors, Tensors], Mapping[str, torch.Tensor]]


@dataclass(frozen=True)
class HeadedCheckpoint:
    """A checkpoint folder; `trunk` is the transformers model in fp32, `head` its tensors beside the trunk's."""

    folder: Path
    checkpoint: TinyCheckpoint
    head: Tensors

    @cached_property
    def trunk(self) -> Any:
        return self.checkpoint.model.model

    @cached_property
    def tokenizer(self) -> Any:
        return AutoTokenizer.from_pretrained(self.folder)

    def ids(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """What apply_chat_template gives."""
        found = self.tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]
        assert isinstance(found, list)
        return found

    def hidden(self, ids: list[int]) -> torch.Tensor:
        """Final hidden states, [tokens, hidden]."""
        with torch.no_grad():
            return self.trunk(torch.tensor([ids])).last_hidden_state[0]

    def spec(self, recipe: str | None = None) -> ModelSpec:
        """What the export understands."""
        return read_spec(open_checkpoint(str(self.folder)), ExportOptions(recipe=recipe))

    def reference(self, spec: ModelSpec, hidden: Tensors) -> dict[str, torch.Tensor]:
        """The head's own reference on hidden states by role, [P, hidden]."""
        return spec.head.reference(hidden, self.head)

    def assert_scores_follow(self, bundle: Path, reads: Reads, formula: Formula) -> None:
        """Exports, and compares the bundle's results and the head's reference with `formula` on transformers' states.

        `reads` gives each role's position in a conversation's ids; `formula` takes the hidden states there, [hidden],
        and the head's tensors.
        """
        export(str(self.folder), bundle)
        spec = self.spec()
        with RewardModel.load(bundle, device="ort-cpu") as model:
            for count in COUNTS:
                records = ragged_records(count, seed=count)
                scores = model.score(records)
                assert model.score(records[-1:]) == scores[-1:]  # bitwise: whatever else is in the batch
                for record, score in zip(records, scores, strict=True):
                    ids = self.ids(messages_of(record))
                    states = self.hidden(ids)
                    read = {role: states[at] for role, at in reads(ids).items()}
                    expected = formula(read, self.head)
                    _assert_close(score, expected)
                    own = self.reference(spec, {role: state[None] for role, state in read.items()})
                    assert set(own) == set(expected)
                    for name, value in own.items():
                        torch.testing.assert_close(value[0], expected[name], atol=TOLERANCE, rtol=0)
        assert [score.value for score in scores] == command_scores(bundle, records, "ort-cpu")

    def assert_gate_passes(self, bundle: Path, dtype: Any, recipe: str | None = None) -> None:
        """The parity gate of a `dtype` bundle against transformers and the head's reference.

        ort-cpu computes in fp32: in less, rank correlations of so few conversations on a tiny model are noise.
        """
        export(str(self.folder), bundle, ExportOptions(dtype=dtype, recipe=recipe))
        report = verify(bundle, str(self.folder), VerifyOptions(conversations=12, device="ort-cpu"))
        assert report.passed, table(report)


def _assert_close(score: Any, expected: Mapping[str, torch.Tensor]) -> None:
    assert isinstance(score, Score)
    assert score.value == pytest.approx(expected["score"].item(), abs=TOLERANCE)
    if "logit" in expected:
        assert score.logit == pytest.approx(expected["logit"].item(), abs=TOLERANCE)
    for name in {"rewards", "gating"} & set(expected):
        found = getattr(score, name)
        np.testing.assert_allclose(list(found.values()), expected[name], atol=TOLERANCE)


def random_linear(name: str, rows: int, inputs: int, seed: int, *, bias: bool = True) -> dict[str, torch.Tensor]:
    """`name.weight` and `name.bias` of a layer whose outputs are about as large as its inputs."""
    generator = torch.Generator().manual_seed(seed)
    weight = {f"{name}.weight": torch.randn(rows, inputs, generator=generator) * inputs**-0.5}
    return weight | ({f"{name}.bias": torch.randn(rows, generator=generator) * 0.3} if bias else {})


def write_checkpoint(
    folder: Path,
    head: Tensors,
    config: Mapping[str, Any],
    *,
    trunk: Callable[[Path], TinyCheckpoint] = sequence_classifier,
    prefix: str = "model.",
    beside: Tensors | None = None,
    side_files: Mapping[str, Tensors] | None = None,
) -> HeadedCheckpoint:
    """The trunk under `prefix`, `head` and `beside` (tensors that no head reads) in one file; `config` over its own.

    `side_files` are written by torch and hold parts of `head`, by names without the file's stem.
    """
    checkpoint = trunk(folder)
    backbone = {f"{prefix}{name}": value for name, value in checkpoint.model.model.state_dict().items()}
    aside = {f"{Path(file).stem}.{name}" for file, tensors in (side_files or {}).items() for name in tensors}
    kept = {name: value for name, value in head.items() if name not in aside}
    save_file({**backbone, **kept, **(beside or {})}, folder / "model.safetensors")
    for file, tensors in (side_files or {}).items():
        torch.save(dict(tensors), folder / file)
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | dict(config)))
    return HeadedCheckpoint(folder, checkpoint, head)


def qwen2_trunk(folder: Path) -> TinyCheckpoint:
    return family_checkpoint(folder, "qwen2", dict(SHAPE))


def gemma2_trunk(folder: Path) -> TinyCheckpoint:
    return family_checkpoint(folder, "gemma2", {**SHAPE, "head_dim": 16, "query_pre_attn_scalar": 16})


@pytest.fixture
def headed() -> Callable[..., HeadedCheckpoint]:
    """`write_checkpoint`."""
    return write_checkpoint


@pytest.fixture
def qwen2() -> Callable[[Path], TinyCheckpoint]:
    """A tiny Qwen2."""
    return qwen2_trunk


@pytest.fixture
def gemma2() -> Callable[[Path], TinyCheckpoint]:
    """A tiny Gemma 2."""
    return gemma2_trunk


@pytest.fixture
def linear() -> Callable[..., dict[str, torch.Tensor]]:
    """`random_linear`."""
    return random_linear
