"""InternLM2 in every engine, against its published formula; by the parity gate against the Llama that it is."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from family_checkpoints import check_parity_gate, check_scores
from internlm2_model import Internlm2Shape, internlm2_checkpoint
from rmexport.errors import CheckpointError
from rmexport.families import family_of

SHAPE = Internlm2Shape(vocab_size=1)


def test_scores(tmp_path: Path) -> None:
    check_scores(internlm2_checkpoint(tmp_path / "c", SHAPE), tmp_path / "b")


def test_biases_and_dynamic_rope_around_the_original_length(tmp_path: Path) -> None:
    """Three queries to a key, conversations shorter and longer than max_position_embeddings in one batch."""
    shape = replace(SHAPE, bias=True, factor=4.0, max_position_embeddings=96, num_attention_heads=6, hidden_size=96)
    check_scores(internlm2_checkpoint(tmp_path / "c", shape), tmp_path / "b")


@pytest.mark.ladder
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_parity_gate(tmp_path: Path, dtype: str) -> None:
    check_parity_gate(internlm2_checkpoint(tmp_path / "c", replace(SHAPE, bias=True)), tmp_path / "b", dtype)


def test_biases_are_the_default() -> None:
    """InternLM2Config has `bias` true where config.json has nothing."""
    raw = asdict(SHAPE) | {"model_type": "internlm2"}
    del raw["bias"]
    config: Any = family_of(raw).read_config(raw)
    assert (config.qkv_bias, config.output_bias, config.mlp_bias) == (True, True, False)
    with pytest.raises(CheckpointError, match="bias is 'no'"):
        family_of(raw).read_config(raw | {"bias": "no"})
