"""The memory that a key in an attention row takes decides how many there may be."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from family_checkpoints import family_checkpoint
from rmexport import ExportOptions, export
from rmexport.compile.attention_memory import packed_key_slots, padded_key_slots
from rmexport.compile.device import ANY_GPU, TargetDevice
from rmexport.compile.library import Library
from rmexport.compile.network import parse
from rmexport.compile.profiles import longest_packed
from rmexport.compile.tensorrt_rewrites import parser_model
from rmruntime.bundle import Bundle
from sparse_checkpoints import free_of_sparse_files, write_seed
from tensorrt_networks import fused_attentions

ADA = TargetDevice(gpu=ANY_GPU, compute_capability="8.9", memory=None)
BUDGET, MOST_ELEMENTS, BLOCK = 8 << 30, 2**31 - 1, 128
# Every layer reads keys in rows of all tokens or of read tokens.
SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
}


def slots(rtx: Library, folder: Path, model_type: str, dtype: Any, device: TargetDevice = ADA) -> int:
    export(str(family_checkpoint(folder / "c", model_type, SHAPE).folder), folder / "b", ExportOptions(dtype=dtype))
    graph = next(g for g in Bundle.open(folder / "b").manifest.graphs if g.dialect == "portable")
    model = parser_model(folder / "b" / graph.file, graph)
    return packed_key_slots(graph, model.model, parse(rtx, model).shapes(), device)


def test_fused_attention_gathers_keys_and_values(rtx: Library, tmp_path: Path) -> None:
    """2 heads of 32 features, in bf16. The mask has BLOCK elements for each key."""
    assert slots(rtx, tmp_path, "llama", "bf16") == min(MOST_ELEMENTS // BLOCK, BUDGET // (2 * 64 * 2))
    small = replace(ADA, memory=1 << 20)
    assert slots(rtx, tmp_path / "small", "llama", "bf16", small) == (1 << 17) // (2 * 64 * 2)


@pytest.mark.parametrize(("model_type", "dtype", "size"), [("gemma2", "bf16", 2), ("llama", "fp32", 4)])
def test_written_attention_has_scores_of_every_head(
    rtx: Library, tmp_path: Path, model_type: str, dtype: str, size: int
) -> None:
    found = slots(rtx, tmp_path, model_type, dtype)
    assert found == min(MOST_ELEMENTS // (8 * BLOCK), BUDGET // (2 * (64 + 8 * BLOCK) * size))


def test_eight_billion_parameters_at_full_length(rtx: Library, tmp_path: Path) -> None:
    """The published ArmoRM, parsed at full size: one sequence of its 8192 tokens fits beside 16 GB of weights."""
    if free_of_sparse_files(tmp_path):
        pytest.skip("this file system has no sparse files")
    export(str(write_seed(tmp_path / "c", "armorm")), tmp_path / "b", ExportOptions(weights="link"))
    graph = next(g for g in Bundle.open(tmp_path / "b").manifest.graphs if g.dialect == "portable")
    model = parser_model(tmp_path / "b" / graph.file, graph)
    network = parse(rtx, model)
    assert fused_attentions(network) == 32
    assert model.weights == pytest.approx(2 * 7.5e9, rel=0.01)
    found = packed_key_slots(graph, model.model, network.shapes(), replace(ADA, memory=24 << 30))
    assert found == (3 << 30) // (2 * 1024 * 2)
    assert longest_packed(found, graph.query_block, graph.key_multiple) > 8192


def test_padded_graphs_have_scores_of_every_head(bundle: Path) -> None:
    graph = replace(Bundle.open(bundle).manifest.graphs[0], compute_dtype="fp32")
    assert padded_key_slots(graph, 768, ADA) == min(MOST_ELEMENTS // 12, BUDGET // (2 * 12 * 4))
    assert padded_key_slots(graph, 32, ADA) == BUDGET // 8
