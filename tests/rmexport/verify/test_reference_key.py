"""Every part of the key: whatever changes the reference, or may, changes the key; how a bundle is written does not."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lora_adapters import RANK, adapter_of, random
from rmexport import CheckpointError, ExportOptions, VerificationError
from rmexport.checkpoint import open_checkpoint
from rmexport.verify import processor, reference_key
from rmexport.verify.reference import arithmetic
from rmexport.verify.reference_key import ReferenceKey, read_key, sequence_key
from rmruntime.sequences import TokenSequence
from tiny_checkpoints import TinyShape, causal_lm, sequence_classifier

SMALL = TinyShape(hidden_size=32, intermediate_size=32, num_hidden_layers=1)
OPTIONS = ExportOptions()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sequence_classifier(tmp_path_factory.mktemp("key") / "c", SMALL).folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(original, tmp_path / "c"))


def key_of(folder: Path, options: ExportOptions = OPTIONS, **facts: Any) -> ReferenceKey:
    return read_key(open_checkpoint(str(folder)), options, arithmetic() | facts)


def digest(folder: Path, options: ExportOptions = OPTIONS, dtype: str = "fp32", **facts: Any) -> str:
    return key_of(folder, options, **facts).digest(dtype)


def test_the_same_twice(folder: Path) -> None:
    assert digest(folder) == digest(folder) and len(digest(folder)) == 64


def rewrite_in_place(folder: Path) -> None:
    """Another weight, the same size and time: what a file system that knows one time only leaves."""
    path = folder / "model.safetensors"
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def edit_config(folder: Path) -> None:
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | {"rms_norm_eps": 1e-5}))


def grow(folder: Path) -> None:
    with (folder / "tokenizer_config.json").open("a") as file:
        file.write(" ")


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: os.utime(folder / "model.safetensors", ns=(0, 1)),
        lambda folder: os.utime(folder / "config.json", ns=(0, 1)),
        rewrite_in_place,
        edit_config,
        grow,
    ],
    ids=["time of weights", "time of config.json", "content", "config.json", "size"],
)
def test_files(folder: Path, change: Callable[[Path], None]) -> None:
    before = digest(folder)
    change(folder)
    assert digest(folder) != before


def test_another_place(original: Path, folder: Path) -> None:
    """A copy with its times is another checkpoint: nobody has read all of it."""
    assert digest(folder) != digest(original)


def test_known_hashes_count_and_need_no_reading(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hub's cache names weights by their hash."""
    monkeypatch.setattr(reference_key, "_sample", lambda path: pytest.fail(f"{path} was read"))
    digests = set()
    for sha256 in ("a" * 64, "b" * 64):
        monkeypatch.setattr("rmexport.checkpoint.checkpoint.hub_sha256", lambda path, known=sha256: known)
        digests.add(digest(folder))
    assert len(digests) == 2


def test_recipes_count_by_content(tmp_path: Path) -> None:
    folder = causal_lm(tmp_path / "lm", SMALL).folder
    recipe = tmp_path / "own.json"
    digests = []
    for tokens in (["+", "-"], ["-", "+"], ["+", "-"]):
        recipe.write_text(json.dumps({"name": "own", "description": "", "tokens": tokens}))
        digests.append(digest(folder, ExportOptions(recipe=str(recipe))))
    moved = recipe.rename(tmp_path / "moved.json")
    digests.append(digest(folder, ExportOptions(recipe=str(moved))))
    assert digests[0] != digests[1] and digests[0] == digests[2] == digests[3]
    assert digest(folder) not in digests


def test_adapters(folder: Path, tmp_path: Path) -> None:
    """The adapter's files and the base's."""
    tensors = {
        "model.layers.0.self_attn.q_proj.lora_A.weight": random(RANK, 32, seed=0),
        "model.layers.0.self_attn.q_proj.lora_B.weight": random(32, RANK, seed=1),
    }
    adapter = adapter_of(tmp_path / "a", folder, tensors)
    before = digest(adapter)
    assert before == digest(adapter) != digest(folder)
    os.utime(folder / "model.safetensors", ns=(0, 1))
    changed = digest(adapter)
    adapter_of(adapter, folder, tensors, lora_dropout=0.5)
    assert len({before, changed, digest(adapter)}) == 3


CHANGED: Mapping[str, Any] = {"bos": "zero", "step_joiner": "\n", "score_label": "LABEL_0", "pinned_date": "2020-01-01"}


def test_options(folder: Path) -> None:
    """Those that change what is computed count, and every option is known to do or not to."""
    known = set(CHANGED) | reference_key.WITHOUT_EFFECT
    assert known == {field.name for field in dataclasses.fields(ExportOptions)}
    digests = {digest(folder, ExportOptions(**{name: value})) for name, value in CHANGED.items()}
    assert len(digests | {digest(folder)}) == 5
    written = ExportOptions(
        dtype="bf16", weights="link", quantize="int8", overwrite=True, hash=True, max_shard_size="1GB", restart=True,
        stages=2,
    )  # fmt: skip
    assert digest(folder, written) == digest(folder)


def test_the_arithmetic_itself(folder: Path) -> None:
    assert len({digest(folder, dtype=dtype) for dtype in ("fp32", "bf16", "fp16")}) == 3


@pytest.mark.parametrize(
    "fact", ["torch", "transformers", "reference_device", "build", "kernels", "threads", "matmul_precision"]
)
def test_what_computes(folder: Path, fact: str) -> None:
    assert fact in arithmetic()
    assert digest(folder, **{fact: "another"}) != digest(folder)


def test_threads_are_those_of_torch(folder: Path) -> None:
    before, count = digest(folder), torch.get_num_threads()
    try:
        torch.set_num_threads(count + 1)
        assert digest(folder) != before
    finally:
        torch.set_num_threads(count)


def test_rmexport(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its version, and between two releases its sources."""
    before = digest(folder)
    with monkeypatch.context() as patch:
        patch.setattr(reference_key, "__version__", "0")
        versioned = digest(folder)
    monkeypatch.setattr(reference_key, "_own_sources", lambda: "edited")
    assert len({before, versioned, digest(folder)}) == 3


CPUINFO = "processor\t: 0\nvendor_id\t: {}\nmodel name\t: {}\nflags\t\t: {}\n\nprocessor\t: 1\nflags\t: other\n"


def test_processors_count_by_what_they_can(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
    for name in processor.LIMITS:
        monkeypatch.delenv(name, raising=False)

    def on(vendor: str, model: str, flags: str) -> str:
        (tmp_path / "cpuinfo").write_text(CPUINFO.format(vendor, model, flags))
        return digest(folder)

    plain = on("GenuineIntel", "Xeon 1", "fpu avx avx2 fma")
    assert on("GenuineIntel", "Xeon 2", "fma avx2 avx fpu rtm") == plain
    others = {on("AuthenticAMD", "EPYC", "fpu avx avx2 fma"), on("GenuineIntel", "Xeon 3", "avx avx2 fma avx512_bf16")}
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    others.add(on("GenuineIntel", "Xeon 1", "fpu avx avx2 fma"))
    assert len(others | {plain}) == 4


def test_a_system_without_cpuinfo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "nothing")
    assert processor.read_processor().flags == frozenset()


def sequence(ids: list[int], types: list[int] | None = None, **reads: list[int]) -> TokenSequence:
    return TokenSequence(
        ids=np.array(ids),
        reads={role: np.array(at) for role, at in reads.items()},
        types=None if types is None else np.array(types),
    )


def test_sequences() -> None:
    """Tokens, reads and types, and nothing else of them."""
    known = [
        sequence([1, 2, 3], score=[2]),
        sequence([1, 2, 4], score=[2]),
        sequence([1, 2], score=[1]),
        sequence([1, 2, 3], score=[1]),
        sequence([1, 2, 3], score=[1, 2]),
        sequence([1, 2, 3], gate=[2]),
        sequence([1, 2, 3], score=[2], gate=[0]),
        sequence([1, 2, 3], types=[0, 0, 1], score=[2]),
        sequence([1, 2, 3], types=[0, 0, 0], score=[2]),
    ]
    assert len({sequence_key(one) for one in known}) == len(known)
    again = dataclasses.replace(known[0], ids=known[0].ids.astype(np.int32), truncated=3, flags=("x",))
    assert sequence_key(again) == sequence_key(known[0])


def test_a_checkpoint_that_changes_meanwhile(folder: Path) -> None:
    key = key_of(folder)
    key.check()
    os.utime(folder / "model.safetensors", ns=(0, 1))
    with pytest.raises(VerificationError, match=r"model\.safetensors of .* changed while"):
        key.check()
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        key.check()
