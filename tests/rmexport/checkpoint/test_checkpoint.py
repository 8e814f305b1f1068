"""Opening checkpoints: local folders, the Hub's cache, what they record of their origin, and what is no checkpoint."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import huggingface_hub
import ml_dtypes
import numpy as np
import pytest

from checkpoint_files import as_hub_snapshot, bf16, with_config, write_sharded, write_single
from rmexport.checkpoint import WeightFault, check_weights, open_checkpoint
from rmexport.checkpoint.hub import download
from rmexport.errors import CheckpointError, OptionError
from tiny_tokenizer import build_tokenizer

MIXED = {
    "a": bf16((5, 7)),
    "b": np.linspace(-1, 1, 6, dtype=np.float16).reshape(2, 3),
    "c": np.array(2.5, np.float32),
    "d": np.arange(3, dtype=np.float64),
    "e": np.array([[1, -2]], np.int64),
    "f": np.array([True, False]),
    "g": np.zeros((0, 4), np.float32),
}


def test_mixed_dtypes_read_exactly(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(write_single(tmp_path, MIXED)))
    assert set(checkpoint.tensors) == set(MIXED)
    for name, expected in MIXED.items():
        found = checkpoint.read(name)
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert found.tobytes() == expected.tobytes()
        assert checkpoint.tensors[name].size == expected.size
    assert checkpoint.tensors["a"].dtype == "bf16"
    assert checkpoint.read("a").dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize("max_bytes", [1, 3, 8, 40, 10_000])
def test_chunks_concatenate_to_the_tensor(tmp_path: Path, max_bytes: int) -> None:
    checkpoint = open_checkpoint(str(write_single(tmp_path, MIXED)))
    for name, expected in MIXED.items():
        chunks = list(checkpoint.chunks(name, max_bytes))
        assert all(chunk.ndim == 1 and chunk.nbytes <= max(max_bytes, expected.itemsize) for chunk in chunks)
        assert b"".join(chunk.tobytes() for chunk in chunks) == expected.tobytes()


def test_unknown_tensor(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no tensor 'nope'"):
        open_checkpoint(str(write_single(tmp_path, MIXED))).read("nope")


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(write_single(tmp_path, {"a": bf16((100, 100))})))
    os.truncate(tmp_path / "model.safetensors", 5000)
    with pytest.raises(CheckpointError, match="shorter"):
        checkpoint.read("a")


def test_source_files(tmp_path: Path) -> None:
    build_tokenizer(tmp_path)
    folder = write_sharded(tmp_path, [{"a": bf16((2, 2))}, {"b": bf16((2, 2))}])
    records = {record.name: record for record in open_checkpoint(str(folder)).source_files}
    small = {"config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    shards = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}
    assert set(records) == small | shards | {"model.safetensors.index.json"}
    for name, record in records.items():
        raw = (folder / name).read_bytes()
        assert record.size == len(raw)
        assert record.sha256 == (None if name in shards else hashlib.sha256(raw).hexdigest())


def test_a_symlinked_snapshot(tmp_path: Path) -> None:
    """The Hub's cache is a folder of links; repository, commit and the hashes of weights are in its names."""
    plain = write_sharded(tmp_path / "plain", [{"a": bf16((2, 2))}, {"b": bf16((2, 2), 1)}])
    digests = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in plain.iterdir()}
    checkpoint = open_checkpoint(str(as_hub_snapshot(plain, tmp_path / "cache")))
    assert (checkpoint.repo, checkpoint.revision) == ("someone/rm", "c" * 40)
    np.testing.assert_array_equal(checkpoint.read("b"), bf16((2, 2), 1))
    assert {record.name: record.sha256 for record in checkpoint.source_files} == digests
    assert open_checkpoint(str(checkpoint.folder), revision="c" * 40).revision == "c" * 40


def test_a_plain_folder_has_no_origin(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(write_single(tmp_path, MIXED)))
    assert (checkpoint.repo, checkpoint.revision) == (None, None)
    with pytest.raises(OptionError, match="--revision main"):
        open_checkpoint(str(tmp_path), revision="main")


@pytest.mark.parametrize("name", ["nowhere", "./some/where", "/no/such", "a/b/c", "a b/c", "../x/y", ""])
def test_neither_folder_nor_repository(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if name == "":  # Path("") is the current folder, which is no checkpoint
        with pytest.raises(CheckpointError, match=r"config\.json"):
            open_checkpoint(name)
        return
    with pytest.raises(CheckpointError, match="neither a local folder nor a Hub repository"):
        open_checkpoint(name)


def test_a_file_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="is a file"):
        open_checkpoint(str(tmp_path / "model.safetensors"))


@pytest.mark.parametrize("raw", [b"{", b"[]", b"\xff\xfe", b"", b"[" * 100_000])
def test_a_broken_config(tmp_path: Path, raw: bytes) -> None:
    folder = write_single(tmp_path, MIXED)
    (folder / "config.json").write_bytes(raw)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        open_checkpoint(str(folder))


def test_missing_parts(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        open_checkpoint(str(tmp_path))
    with_config(tmp_path)
    with pytest.raises(CheckpointError, match=r"none of model\.safetensors, .*pytorch_model\.bin"):
        open_checkpoint(str(tmp_path))
    (tmp_path / "consolidated.00.pth").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"consolidated\.00\.pth"):
        open_checkpoint(str(tmp_path))


class FakeHub:
    """Stands for snapshot_download: copies the files whose patterns match into a snapshot folder."""

    def __init__(self, files: dict[str, bytes], folder: Path) -> None:
        self.files, self.folder = files, folder
        self.calls: list[dict[str, Any]] = []

    def __call__(
        self, repo: str, *, revision: str | None, allow_patterns: list[str], ignore_patterns: list[str]
    ) -> str:
        self.calls.append({"repo": repo, "revision": revision})
        kept = huggingface_hub.utils.filter_repo_objects(
            self.files, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
        )
        for name in kept:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_bytes(self.files[name])
        return str(self.folder)


@pytest.fixture
def hub_files(tmp_path: Path) -> dict[str, bytes]:
    folder = write_single(tmp_path / "upstream", MIXED)
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    extra = ("training_args.bin", "original/model.safetensors", "README.md", "modeling_custom.py", "optimizer.pt")
    return files | dict.fromkeys(("pytorch_model.bin", "chat_template.jinja", *extra), b"other")


def test_downloads_only_what_an_export_reads(
    tmp_path: Path, hub_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = tmp_path / "models--someone--rm" / "snapshots" / ("a" * 40)
    hub = FakeHub(hub_files, snapshot)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub)
    checkpoint = open_checkpoint("someone/rm", revision="v2")
    assert (checkpoint.repo, checkpoint.revision) == ("someone/rm", "a" * 40)
    assert hub.calls == [{"repo": "someone/rm", "revision": "v2"}]
    found = {path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file()}
    assert found == {"config.json", "model.safetensors", "chat_template.jinja"}


def test_downloads_bin_files_only_without_safetensors(
    tmp_path: Path, hub_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    torch.save({"a": torch.ones(2)}, tmp_path / "x.bin")
    files = hub_files | {"pytorch_model.bin": (tmp_path / "x.bin").read_bytes()}
    del files["model.safetensors"]
    monkeypatch.setattr(huggingface_hub, "snapshot_download", FakeHub(files, tmp_path / "snapshot"))
    assert set(open_checkpoint("someone/rm").tensors) == {"a"}
    assert not (tmp_path / "snapshot" / "training_args.bin").exists()


@pytest.mark.parametrize(
    ("upstream", "fetched"),
    [
        (("model.safetensors", "value_head.bin", "pytorch_model.bin"), ("model.safetensors", "value_head.bin")),
        (
            ("model.safetensors", "regression_layer.pt", "gating_layer.pt", "scheduler.pt"),
            ("model.safetensors", "regression_layer.pt", "gating_layer.pt"),
        ),
        (("pytorch_model.bin", "value_head.safetensors"), ("pytorch_model.bin", "value_head.safetensors")),
        (("adapter_model.safetensors", "training_args.bin"), ("adapter_model.safetensors",)),
        (("adapter_model.bin", "value_head.safetensors"), ("adapter_model.bin", "value_head.safetensors")),
        (("adapter_model.safetensors", "pytorch_model.bin"), ("adapter_model.safetensors", "pytorch_model.bin")),
    ],
)
def test_downloads_heads_and_adapters(
    tmp_path: Path, upstream: tuple[str, ...], fetched: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heads in files of their own may have another format than the weights; TRL's lies beside an adapter."""
    files = dict.fromkeys(("adapter_config.json", *upstream), b"{}")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", FakeHub(files, tmp_path / "snapshot"))
    download("someone/rm", None)
    assert {path.name for path in (tmp_path / "snapshot").iterdir()} == {"adapter_config.json", *fetched}


def test_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network what is cached opens, and everything else is an error with advice."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    as_hub_snapshot(write_single(tmp_path / "plain", MIXED), tmp_path / "cache")
    assert open_checkpoint("someone/rm").revision == "c" * 40
    with pytest.raises(CheckpointError, match="someone/other cannot be downloaded") as caught:
        open_checkpoint("someone/other")
    assert "give a local folder" in str(caught.value)
    with pytest.raises(CheckpointError, match="at revision v9"):
        open_checkpoint("someone/rm", revision="v9")


ONE, TWO = "1" * 40, "2" * 40


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache as the Hub's client leaves it, of a repository with a branch, a tag, a pull request and two commits."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    as_hub_snapshot(write_single(tmp_path / "plain", MIXED), tmp_path / "cache", commit=ONE)
    root = tmp_path / "cache" / "models--someone--rm"
    (root / "snapshots" / TWO).mkdir()
    for link in (root / "snapshots" / ONE).iterdir():
        (root / "snapshots" / TWO / link.name).symlink_to(link.readlink())
    (root / "refs" / "refs" / "pr").mkdir(parents=True)
    for name, commit in (("main", ONE), ("1", TWO), ("v1.0", ONE), ("refs/pr/3", TWO)):
        (root / "refs" / name).write_text(commit)
    return root


@pytest.mark.parametrize(
    ("revision", "commit"),
    [(None, ONE), ("main", ONE), ("1", TWO), ("v1.0", ONE), ("refs/pr/3", TWO), (ONE, ONE), (TWO, TWO)],
)
def test_branches_tags_and_commits_become_commits(cached: Path, revision: str | None, commit: str) -> None:
    """From the Hub's cache, without a network: by the repository's id, and by its folder in the cache."""
    for name in ("someone/rm", str(cached)):
        checkpoint = open_checkpoint(name, revision=revision)
        assert (checkpoint.repo, checkpoint.revision) == ("someone/rm", commit)
        assert checkpoint.folder == cached / "snapshots" / commit
    checkpoint = open_checkpoint(str(cached / "snapshots" / commit), revision=revision)
    assert (checkpoint.repo, checkpoint.revision) == ("someone/rm", commit)


def test_revisions_that_a_cached_folder_is_not(cached: Path) -> None:
    with pytest.raises(OptionError, match=f"--revision 1 is commit {TWO}: give .*snapshots/{TWO}"):
        open_checkpoint(str(cached / "snapshots" / ONE), revision="1")
    for folder in (cached, cached / "snapshots" / ONE):
        for revision in ("2", "../refs/main", ".."):
            with pytest.raises(OptionError, match=f"no revision {revision}; it has 1, main, refs/pr/3, v1.0, {ONE}"):
                open_checkpoint(str(folder), revision=revision)
    (cached / "refs" / "gone").write_text("3" * 40)  # its snapshot was deleted
    with pytest.raises(OptionError, match="no revision gone"):
        open_checkpoint(str(cached), revision="gone")


def test_a_branch_that_moves_while_it_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second request, for .bin files, is for the commit of the first."""
    hub = FakeHub({"config.json": b"{}", "pytorch_model.bin": b""}, tmp_path / ONE)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub)
    download("someone/rm", "main")
    assert [call["revision"] for call in hub.calls] == ["main", ONE]


def test_downloads_the_folders_of_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sentence Transformers' modules have folders of their own, which other sub-folders are not."""
    modules = [{"type": "a.Transformer", "path": ""}, {"type": "b.LogitScore", "path": "1_LogitScore"}]
    files = {"modules.json": json.dumps(modules).encode(), "config.json": b"{}", "model.safetensors": b""}
    files |= {"1_LogitScore/config.json": b"{}", "1_LogitScore/notes.txt": b"", "onnx/config.json": b"{}"}
    hub = FakeHub(files, tmp_path / ONE)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub)
    download("someone/reranker", "main")
    found = {path.relative_to(tmp_path / ONE).as_posix() for path in (tmp_path / ONE).rglob("*") if path.is_file()}
    assert found == {"modules.json", "config.json", "model.safetensors", "1_LogitScore/config.json"}
    assert [call["revision"] for call in hub.calls] == ["main", ONE]


def test_check_weights_counts_every_nan_and_inf(tmp_path: Path) -> None:
    tensors = {name: array.copy() for name, array in MIXED.items()} | {"h": bf16((700, 1000))}
    tensors["a"][0, :2] = np.nan
    tensors["b"][1, 1] = -np.inf
    tensors["h"][-1, -3:] = (np.nan, np.inf, -np.inf)
    tensors["d"][0] = np.nan
    seen: list[int] = []
    checkpoint = open_checkpoint(str(write_single(tmp_path, tensors)))
    faults = check_weights(checkpoint, seen.append)
    assert sorted(faults, key=lambda fault: (fault.tensor, fault.kind)) == [
        WeightFault("a", "NaN", 2),
        WeightFault("b", "Inf", 1),
        WeightFault("d", "NaN", 1),
        WeightFault("h", "Inf", 2),
        WeightFault("h", "NaN", 1),
    ]
    assert sum(seen) == sum(a.nbytes for a in tensors.values() if a.dtype.kind not in "ib")
    assert check_weights(open_checkpoint(str(write_single(tmp_path / "good", MIXED)))) == []
