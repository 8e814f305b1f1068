"""Mixtral in every engine, and that no more expert rows are computed than the plan of blocks promises."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from conversations import ragged_records
from family_checkpoints import check_parity_gate, check_scores, family_checkpoint
from rmexport import export
from rmexport.errors import CheckpointError, UnsupportedModel
from rmexport.families import family_of
from rmruntime import ScoreOptions
from rmruntime.batching.packing import pack, row_shape
from rmruntime.bundle import Bundle
from rmruntime.records import parse_record
from rmruntime.text.request_tokenizer import RequestTokenizer

EXPERTS, CHOSEN, HIDDEN = 8, 2, 64
TINY: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "num_local_experts": EXPERTS,
    "num_experts_per_tok": CHOSEN,
}


def test_scores(tmp_path: Path) -> None:
    check_scores(family_checkpoint(tmp_path / "c", "mixtral", TINY), tmp_path / "b")


def test_more_experts_than_a_batch_has_slots_and_a_window(tmp_path: Path) -> None:
    fields = TINY | {"num_hidden_layers": 2, "num_local_experts": 64, "num_experts_per_tok": 3, "sliding_window": 24}
    check_scores(family_checkpoint(tmp_path / "c", "mixtral", fields), tmp_path / "b")


@pytest.mark.parametrize("dtype", [pytest.param("bf16", marks=pytest.mark.ladder), "fp16"])
def test_parity_gate(tmp_path: Path, dtype: str) -> None:
    fields = TINY | {"num_hidden_layers": 2}
    check_parity_gate(family_checkpoint(tmp_path / "c", "mixtral", fields), tmp_path / "b", dtype)


def test_a_score_does_not_depend_on_what_it_is_scored_with(tmp_path: Path) -> None:
    """Alone and among others, where experts' blocks hold other tokens too: the same but for rounding."""
    export(str(family_checkpoint(tmp_path / "c", "mixtral", TINY).folder), tmp_path / "b")
    session, feeds, _ = portable(tmp_path / "b", 12)
    [together] = session.run(["score"], feeds)
    alone = [session.run(["score"], portable(tmp_path / "b", 12, only=i)[1])[0][0] for i in range(12)]
    np.testing.assert_allclose(together, alone, atol=2e-6)


def test_only_the_chosen_experts_are_computed(tmp_path: Path) -> None:
    """Rows that went through an expert, read out of the first layer: at least the slots, at most twice and a bit."""
    export(str(family_checkpoint(tmp_path / "c", "mixtral", TINY).folder), tmp_path / "b")
    session, feeds, computed = portable(tmp_path / "b", 12)
    tokens = feeds["input_ids"].size
    [out] = session.run([computed], feeds)  # [blocks, rows, hidden]
    slots, rows = tokens * CHOSEN, out.shape[0] * out.shape[1]
    assert out.shape[2] == HIDDEN
    assert slots <= rows < 2 * slots + 16 * EXPERTS
    assert rows < tokens * EXPERTS / 2


def portable(bundle: Path, count: int, only: int | None = None) -> tuple[Any, dict[str, np.ndarray], str]:
    """The portable graph with its first scan's result as an output, and a batch's inputs."""
    opened = Bundle.open(bundle)
    graph = next(g for g in opened.manifest.graphs if g.dialect == "portable")
    model = onnx.load(bundle / graph.file, load_external_data=False)
    computed = next(node for node in model.graph.node if node.op_type == "Scan").output[0]
    model.graph.output.append(onnx.helper.make_tensor_value_info(computed, onnx.TensorProto.FLOAT, None))
    path = bundle / "with_experts.onnx"
    onnx.save(model, path)
    encoder = RequestTokenizer(opened.manifest, bundle)
    sequences = [encoder.encode(parse_record(r), ScoreOptions())[0] for r in ragged_records(count)]
    sequences = sequences if only is None else [sequences[only]]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session, dict(pack(sequences, row_shape(graph)).feeds), computed


def test_config_defaults_are_transformers() -> None:
    sizes = {name: TINY[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers")}
    raw = sizes | {"model_type": "mixtral", "vocab_size": 300, "num_attention_heads": 16, "max_position_embeddings": 99}
    config: Any = family_of(raw).read_config(raw)
    assert (config.experts.count, config.experts.chosen, config.num_key_value_heads) == (8, 2, 8)
    assert (config.ropes[0].theta, config.norm_eps, config.windows) == (1e6, 1e-5, (None,) * 3)


def test_more_chosen_than_there_are_is_refused() -> None:
    raw = TINY | {"model_type": "mixtral", "vocab_size": 300, "num_experts_per_tok": 9}
    with pytest.raises(CheckpointError, match="num_experts_per_tok is 9, expected at most 8"):
        family_of(raw).read_config(raw)


def test_other_activations_are_refused() -> None:
    raw = TINY | {"model_type": "mixtral", "vocab_size": 300, "hidden_act": "gelu"}
    with pytest.raises(UnsupportedModel, match="hidden_act is 'gelu'"):
        family_of(raw).read_config(raw)
