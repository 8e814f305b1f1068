"""A bundle with bytes changed, cut or added is refused or scores exactly the same, digests anew or not."""

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmruntime import RewardModel, RewardModelError, ScoreOptions
from rmruntime.bundle import Bundle
from rmruntime.bundle.graph_check import check_graphs
from rmruntime.bundle.onnx_file import read_onnx
from rmruntime.bundle.protobuf_fields import WireError
from rmruntime.records import parse_record
from rmruntime.text.request_tokenizer import RequestTokenizer
from seeded_fuzz import seeded
from tampered_bundles import RECORD, copied, graph_names, manifest_of, rewrite_file, small_bundle


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("bytes"), layers=1)


@pytest.fixture(scope="module")
def bundle(exported: Path) -> Path:
    return copied(exported, exported.with_name("bundle"))


@pytest.fixture(scope="module")
def expected(bundle: Path) -> list[Any]:
    return scored(bundle)


def scored(folder: Path) -> list[Any]:
    with RewardModel.load(folder, device="cpu") as model:
        return model.score([RECORD])


def mutated(raw: bytes, rng: random.Random) -> bytes:
    changed = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(changed) + 1)
        kind = rng.randrange(4)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[at:at] = rng.randbytes(rng.randrange(1, 9))
        elif kind == 2:
            del changed[at : at + rng.randrange(1, 64)]
        else:
            changed[at : at + 8] = rng.choice((b"\xff" * 8, b"\0" * 8, b"99999999"))
    return bytes(changed)


@seeded(80)
@given(seed=st.integers(0, 2**32))
def test_bytes_of_any_file(bundle: Path, expected: list[Any], seed: int) -> None:
    rng = random.Random(seed)
    names = ["manifest.json", *(f["name"] for f in manifest_of(bundle)["files"] if f["role"] != "weights")]
    path = bundle / rng.choice(names)
    raw = path.read_bytes()
    try:
        path.write_bytes(mutated(raw, rng))
        assert scored(bundle) == expected
    except RewardModelError as error:
        assert str(error)
    finally:
        path.write_bytes(raw)


@seeded(60)
@given(seed=st.integers(0, 2**32))
def test_tokenizers_and_templates_with_a_hash_that_fits(exported: Path, seed: int) -> None:
    """Other texts may come out: what must not is anything but a score or an error of ours."""
    rng = random.Random(seed)
    folder = copied(exported, exported.with_name(f"text-{seed}"))
    name = rng.choice(("tokenizer.json", "chat_template.jinja"))
    rewrite_file(folder, name, mutated((folder / name).read_bytes(), rng))
    try:
        encoder = RequestTokenizer(Bundle.open(folder).manifest, folder)
        encoder.encode_many([parse_record(RECORD)], ScoreOptions())
    except RewardModelError as error:
        assert str(error)


@seeded(300)
@given(seed=st.integers(0, 2**32))
def test_graphs_are_read_or_refused(exported: Path, seed: int) -> None:
    """No engine sees these: engines do not survive every graph."""
    rng = random.Random(seed)
    raw = (exported / rng.choice(graph_names(exported))).read_bytes()
    try:
        read_onnx(mutated(raw, rng))
    except WireError as error:
        assert str(error)


@seeded(40)
@given(seed=st.integers(0, 2**32))
def test_graphs_with_a_hash_that_fits_name_no_other_files(exported: Path, seed: int) -> None:
    rng = random.Random(seed)
    folder = copied(exported, exported.with_name(f"graph-{seed}"))
    name = rng.choice(graph_names(folder))
    rewrite_file(folder, name, mutated((folder / name).read_bytes(), rng))
    weights = {path.name for path in folder.glob("*.safetensors")}
    try:
        check_graphs(Bundle.open(folder))
    except RewardModelError as error:
        assert str(error)
    else:
        tensors = read_onnx((folder / name).read_bytes()).tensors
        assert {dict(tensor.external)["location"] for tensor in tensors if tensor.external} <= weights
