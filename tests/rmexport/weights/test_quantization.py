"""Codes and scales: what they stand for, how they are packed, and how they are streamed out of a checkpoint."""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import ml_dtypes
import numpy as np
import pytest

from checkpoint_files import write_sharded
from rmexport.checkpoint import Checkpoint, open_checkpoint
from rmexport.checkpoint.derived_tensors import TensorAlias, TensorRows
from rmexport.errors import CheckpointError, OptionError
from rmexport.options import ExportOptions
from rmexport.weights import StoredWeights, WeightSpec, shard_plan, store_weights
from rmexport.weights.quantization import BLOCK, Quantized, choose_scales, decode, encode, scheme_for
from rmruntime.bundle.manifest import Scheme

SCHEMES: tuple[Scheme, ...] = get_args(Scheme)
# Relative errors of normal rows, a little above what docs/performance.md gives for them.
ERRORS: dict[Scheme, float] = {"int8": 0.008, "int4": 0.085, "fp8": 0.028}
DTYPES: dict[str, Any] = {"bf16": ml_dtypes.bfloat16, "fp16": np.float16, "fp32": np.float32}


def normal(rows: int, columns: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    return (np.random.default_rng(seed).standard_normal((rows, columns)) * 0.02).astype(np.float32)


def quantized(rows: np.ndarray[Any, Any], scheme: Scheme, scale_dtype: str = "bf16") -> tuple[Any, Any]:
    how = Quantized(scheme, "codes", rows.shape, scale_dtype)
    scales = choose_scales(rows, how)
    return encode(rows, scales, how), scales


@pytest.mark.parametrize("scale_dtype", DTYPES)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_is_stored_stands_for_the_matrix(scheme: Scheme, scale_dtype: str) -> None:
    rows = normal(16, 512)
    codes, scales = quantized(rows, scheme, scale_dtype)
    assert scales.dtype == DTYPES[scale_dtype]
    error = np.linalg.norm(decode(codes, scales, scheme) - rows) / np.linalg.norm(rows)
    assert 0 < error < ERRORS[scheme]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_rows_are_quantized_by_themselves(scheme: Scheme) -> None:
    """So that a matrix may be read in any pieces; a row a thousand times larger takes nothing from the others."""
    rows = normal(4, 96)
    rows[1] *= 1000
    codes, scales = quantized(rows, scheme)
    for i in range(len(rows)):
        one, its = quantized(rows[i : i + 1], scheme)
        assert (one[0] == codes[i]).all() and (its[0] == scales[i]).all()


def test_int4_is_packed_as_matmulnbits_reads_it() -> None:
    """code + 8, the first of two in the low bits; the largest magnitude is code -8 whatever its sign."""
    row = np.zeros((1, BLOCK), np.float32)
    row[0, :3] = [8.0, -7.0, 3.0]
    codes, scales = quantized(row, "int4", "fp32")
    assert scales.tolist() == [[-1.0]]
    assert codes[0, :2].tolist() == [(-8 + 8) | (7 + 8) << 4, (-3 + 8) | 8 << 4]


@pytest.mark.parametrize("scale_dtype", DTYPES)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_rows_of_zeros_and_of_the_smallest_numbers(scheme: Scheme, scale_dtype: str) -> None:
    rows = np.zeros((3, BLOCK), np.float32)
    rows[1] = 1e-7
    rows[2, 5] = 1e4
    codes, scales = quantized(rows, scheme, scale_dtype)
    found = decode(codes, scales, scheme)
    assert (scales.astype(np.float32) != 0).all() and np.isfinite(found).all()
    assert not found[0].any()
    np.testing.assert_allclose(found[1:], rows[1:], atol=6e-8, rtol=0.01)


def test_rows_that_are_no_whole_blocks_are_int8() -> None:
    assert scheme_for("int4", (8, 96)) == "int4"
    assert scheme_for("int4", (8, 80)) == "int8"
    assert scheme_for("fp8", (8, 80)) == "fp8"


SHAPES = {"up": (40, 64), "down": (30, 96), "odd": (7, 33)}
TENSORS = {name: normal(*shape, seed).astype(ml_dtypes.bfloat16) for seed, (name, shape) in enumerate(SHAPES.items())}
NORM = {"norm": np.ones(5, ml_dtypes.bfloat16)}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return open_checkpoint(str(write_sharded(tmp_path / "checkpoint", [TENSORS | NORM])))


def parts(name: str, scheme: Scheme, rows: tuple[int, ...] | None = None) -> list[WeightSpec]:
    shape = TENSORS[name].shape if rows is None else (len(rows), TENSORS[name].shape[1])
    codes = Quantized(scheme_for(scheme, shape), "codes", shape, "bf16")
    scale = replace(codes, part="scale")
    made = TensorAlias(source=name) if rows is None else TensorRows(source=name, rows=rows)
    return [
        WeightSpec(name, codes.dtype, codes.stored_shape, made, codes),
        WeightSpec(f"{name}_scale", "bf16", scale.stored_shape, made, scale),
    ]


def stored_arrays(folder: Path, stored: StoredWeights, name: str) -> tuple[Any, Any]:
    kinds = {"int8": np.int8, "uint8": np.uint8, "fp8_e4m3": ml_dtypes.float8_e4m3fn, "bf16": ml_dtypes.bfloat16}
    found = []
    for part in (name, f"{name}_scale"):
        at = stored.locations[part]
        raw = (folder / at.file).read_bytes()[at.offset : at.offset + at.nbytes]
        found.append(np.frombuffer(raw, kinds[at.dtype]).reshape(at.shape))
    return found[0], found[1]


@pytest.mark.parametrize("chunk", [64, 1000, 1 << 20])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_matrices_are_streamed(
    checkpoint: Checkpoint, tmp_path: Path, scheme: Scheme, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the pieces, with scales in other shards than their codes, and of some rows as of fused projections."""
    monkeypatch.setattr("rmexport.weights.stream._CHUNK", chunk)
    monkeypatch.setattr(shard_plan, "SHARD_BYTES", 1000)
    rows = (3, 4, 5, 39, 0)
    wanted = [*parts("up", scheme, rows), *parts("down", scheme), *parts("odd", scheme)]
    wanted.append(WeightSpec("norm", "bf16", (5,), TensorAlias(source="norm")))
    stored = store_weights(checkpoint, wanted, tmp_path, ExportOptions())
    assert len(stored.files) > 1
    for name, matrix in (("up", TENSORS["up"][list(rows)]), ("down", TENSORS["down"]), ("odd", TENSORS["odd"])):
        own = scheme_for(scheme, matrix.shape)
        codes, scales = quantized(matrix.astype(np.float32), own)
        found, its = stored_arrays(tmp_path, stored, name)
        assert found.tobytes() == codes.tobytes() and its.tobytes() == scales.tobytes()


def test_tied_matrices_are_stored_once(checkpoint: Checkpoint, tmp_path: Path) -> None:
    first, scale = parts("up", "int8")
    again = [replace(first, name="other"), replace(scale, name="other_scale")]
    stored = store_weights(checkpoint, [first, scale, *again], tmp_path, ExportOptions())
    assert stored.locations["up"] == stored.locations["other"]
    assert stored.locations["up_scale"] == stored.locations["other_scale"]


def test_links_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--quantize stores other numbers"):
        store_weights(checkpoint, parts("up", "int8"), tmp_path, ExportOptions(weights="link"))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_told(tmp_path: Path, value: float) -> None:
    spoiled = TENSORS["up"].copy()
    spoiled[7, 3] = value
    checkpoint = open_checkpoint(str(write_sharded(tmp_path / "checkpoint", [{"up": spoiled}])))
    (tmp_path / "b").mkdir()
    with pytest.raises(CheckpointError, match=r"up: \d (NaN|Inf)"):
        store_weights(checkpoint, parts("up", "int8"), tmp_path / "b", ExportOptions())
