"""Names of graphs' inputs: those of schema 1, in every graph that is exported, and in one module of the sources."""

import ast
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from rmexport import export
from rmruntime.batching.packing import RowShape, pack
from rmruntime.batching.padding import pad
from rmruntime.bundle import Bundle, graph_names
from rmruntime.bundle.graph_names import PADDED_INPUTS, PAGE_INPUTS, READ_ROWS, TOKEN_INPUTS, row_groups, row_names
from rmruntime.sequences import TokenSequence
from tiny_checkpoints import sequence_classifier

ROOT = Path(__file__).parents[3]
ROWS = ("query_index", "query_positions", "key_index", "key_positions")
READ_IN_ROWS = (graph_names.READ_UNPACK_INDEX, *READ_ROWS.names)
# Records and transformers' models have fields of these names too.
ELSEWHERE = {"input_ids", "token_type_ids"}


def test_the_names_of_schema_1() -> None:
    """Bundles that are out there have them."""
    assert TOKEN_INPUTS == ("input_ids", "position_ids", "unpack_index")
    assert row_names(0).names == ROWS
    assert row_names(2).names == tuple(f"{name}_2" for name in ROWS)
    assert READ_ROWS.names == tuple(f"read_{name}" for name in ROWS)
    assert (row_names(1).query_dims, READ_ROWS.key_dims) == (("R_1", "Sq_1"), ("read_R", "read_Sk"))
    assert (graph_names.READ_INDEX, graph_names.READ_UNPACK_INDEX) == ("read_index", "read_unpack_index")
    index = ("page_tokens", "page_starts", "page_past", "page_table", "page_bounds")
    assert PAGE_INPUTS == (*index, "key_pages", "value_pages")
    assert graph_names.PAST_PAGE_INPUTS == ("page_copies", "page_queries", "page_slots")
    assert graph_names.layer_pages(2) == ("key_pages_2", "value_pages_2")
    assert PADDED_INPUTS == ("input_ids", "attention_mask", "token_type_ids")
    assert (graph_names.HIDDEN_IN, graph_names.HIDDEN_OUT) == ("hidden_in", "hidden_out")
    assert graph_names.role_index("gate") == "gate_index"


def test_groups_are_counted_by_their_queries() -> None:
    assert row_groups([*READ_ROWS.names, *TOKEN_INPUTS]) == 0
    assert row_groups([*row_names(0).names, *row_names(1).names, *row_names(2).names, *READ_ROWS.names]) == 3


@pytest.mark.parametrize(
    "shape", [RowShape(128, 16), RowShape(128, 16, groups=3, token_chunk=64), RowShape(128, 16, page_size=16)]
)
def test_a_pass_feeds_these_names(shape: RowShape) -> None:
    sequences = [TokenSequence(ids=np.arange(n), reads={"score": np.array([n - 1])}) for n in (5, 9)]
    rows = PAGE_INPUTS[:5] if shape.page_size else [n for group in range(shape.groups) for n in row_names(group).names]
    reads = (graph_names.READ_INDEX, "score_index", *(() if shape.page_size else READ_IN_ROWS))
    assert set(pack(sequences, shape).feeds) == {*TOKEN_INPUTS, *rows, *reads}
    assert tuple(pad(sequences, 0).feeds) == PADDED_INPUTS


def test_exported_graphs_have_these_names(tmp_path: Path) -> None:
    """In bf16, in which every dialect has a graph: with rows in one group and in three, with pages and in chunks."""
    export(str(sequence_classifier(tmp_path / "c", dtype=torch.bfloat16).folder), tmp_path / "b")
    for graph in Bundle.open(tmp_path / "b").manifest.graphs:
        model = onnx.load(tmp_path / "b" / graph.file, load_external_data=False)
        rows = [name for group in range(graph.row_groups) for name in row_names(group).names]
        own = PAGE_INPUTS if graph.attention == "pages" else [*rows, *READ_IN_ROWS]
        found = {value.name for value in model.graph.input}
        assert found == {*TOKEN_INPUTS, *own, graph_names.READ_INDEX, "score_index"}, graph.file


def test_one_module_spells_them() -> None:
    """No other source has one of the names as a string of its own."""
    words = (*TOKEN_INPUTS, *READ_ROWS.names, *ROWS, *PAGE_INPUTS, *PADDED_INPUTS, "read_index", "read_unpack_index")
    names = {*words, *graph_names.PAST_PAGE_INPUTS, graph_names.HIDDEN_IN, graph_names.HIDDEN_OUT} - ELSEWHERE
    for path in [*(ROOT / "rmexport").rglob("*.py"), *(ROOT / "runtime" / "rmruntime").rglob("*.py")]:
        strings = {n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)}
        assert path == Path(graph_names.__file__) or not names & strings, path
