"""The command line of a cluster, as far as it goes without one."""

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rmexport import export
from rmruntime.cli import main
from rmruntime.cluster.options import ClusterOptions
from rmruntime.cluster.pool import pool_for
from rmruntime.cluster.run import score_on_cluster
from rmruntime.errors import ClusterError, OptionError
from rmruntime.options import ScoreOptions
from rmruntime.score_file import FileOptions, RankOptions
from tiny_checkpoints import sequence_classifier


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cluster")
    export(str(sequence_classifier(folder / "c").folder), folder / "b")
    return folder / "b"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text('{"prompt": "a", "response": "b"}\n')
    return path


@pytest.fixture
def with_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if ray were installed: what is looked at before it is used is the same without it."""
    monkeypatch.setattr("rmruntime.cluster.run.import_ray", lambda: None)


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["score", *map(str, arguments)]) == 2
    return capsys.readouterr().err


def test_a_run_in_this_process_refuses_the_options_of_clusters(
    bundle: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = told(capsys, bundle, source, "--workers", 2, "--ray-address", "auto", "--overwrite")
    assert "--ray-address, --workers, --overwrite: found with --engine process, only --engine ray uses this" in said


def test_ray_is_not_loaded_where_it_is_not_asked_for(bundle: Path, source: Path) -> None:
    code = (
        "import sys; from rmruntime.cli import main; main(sys.argv[1:]);"
        "assert not {'ray', 'pandas', 'rmruntime.cluster.run'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, "score", str(bundle), str(source)], check=True, capture_output=True)


def test_ray_is_not_installed(
    bundle: Path, source: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.import_module

    def without(name: str, package: str | None = None) -> Any:
        if name.startswith("ray"):
            raise ModuleNotFoundError("No module named 'ray'", name="ray")
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", without)
    said = told(capsys, bundle, source, "--engine", "ray", "-o", source.parent / "out")
    assert "engine 'ray': ray is not installed; run pip install 'rmruntime[ray]'" in said
    assert not (source.parent / "out").exists()


@pytest.mark.usefixtures("with_ray")
def test_what_is_wrong_is_told_before_a_cluster_is_started(
    bundle: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = source.parent / "out"
    ray = (bundle, source, "--engine", "ray")
    assert "give -o FOLDER" in told(capsys, *ray)
    assert "found a file, expected a folder" in told(capsys, *ray, "-o", source)
    assert "--merge FILE makes one file too" in told(capsys, *ray, "-o", source)
    assert "found standard input" in told(capsys, bundle, "-", "--engine", "ray", "-o", out)
    assert "is not a bundle" in told(capsys, source.parent, source, "--engine", "ray", "-o", out)
    assert "workers is 0, expected at least 1" in told(capsys, *ray, "-o", out, "--workers", 0)
    assert "merge reads shards of JSON lines" in told(capsys, *ray, "-o", out, "--shards", "parquet", "--merge", "x")
    assert "expected the name of a file in a folder that exists" in told(capsys, *ray, "-o", out, "--merge", out / "x")
    assert not out.exists()
    said = told(capsys, *ray, "-o", out, "--ray-address", "ray://somewhere:1")
    assert "address is 'ray://somewhere:1', expected local, auto or HOST:PORT" in said


@pytest.mark.usefixtures("with_ray")
def test_documents_are_not_ranked_on_a_cluster(bundle: Path, source: Path) -> None:
    files = FileOptions(input=source, output=source.parent / "out", rank=RankOptions())
    with pytest.raises(OptionError, match="rank: found it for a cluster"):
        score_on_cluster(str(bundle), files, ScoreOptions(), ClusterOptions())


@pytest.mark.usefixtures("with_ray")
def test_an_output_of_something_else(bundle: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = source.parent / "out"
    ray = (bundle, source, "--engine", "ray", "-o", out, "--ray-address", "127.0.0.1:1")
    assert "nothing answers there" in told(capsys, *ray)  # by then the folder is this run's
    assert "shards of another run: max_length (None then, 9 now)" in told(capsys, *ray, "--max-length", 9)
    source.write_text('{"prompt": "a", "response": "c"}\n')
    assert "shards of another run: the content of in.jsonl" in told(capsys, *ray)
    journal = out / "_journal" / "plan.json"
    kept = journal.read_text()
    assert "is not a bundle" in told(capsys, source.parent, *ray[1:], "--overwrite") and journal.read_text() == kept
    assert "nothing answers there" in told(capsys, *ray, "--overwrite") and journal.read_text() != kept
    other = source.parent / "other"
    other.mkdir()
    (other / "letters.txt").write_text("mine")
    ray = (*ray[:-3], other)
    assert "found files but no journal" in told(capsys, *ray)
    assert "found files but no journal" in told(capsys, *ray, "--overwrite")
    assert (other / "letters.txt").read_text() == "mine"


class Cluster:
    """Stands in for the module ray, as far as room is concerned."""

    def __init__(self, *machines: dict[str, float]) -> None:
        self._nodes = [{"Alive": True, "Resources": resources} for resources in machines]

    def nodes(self) -> list[dict[str, Any]]:
        return [*self._nodes, {"Alive": False, "Resources": {"CPU": 99.0, "GPU": 99.0}}]


def pool(machines: list[dict[str, float]], workers: int | None = None, **files: Any) -> tuple[Any, ...]:
    options = ClusterOptions(workers=workers)
    found = pool_for(Cluster(*machines), FileOptions(input="in.jsonl", **files), options)
    return found.workers, found.cpus, found.gpus, found.files.device, found.files.threads


EIGHT, FOUR, GPUS = {"CPU": 8.0}, {"CPU": 4.0}, {"CPU": 16.0, "GPU": 2.0}


def test_workers_are_one_a_machine_or_one_a_gpu() -> None:
    assert pool([EIGHT]) == (1, 8, 0, "cpu", 8)
    assert pool([EIGHT], 2) == (2, 4, 0, "cpu", 4)
    assert pool([EIGHT], threads=2) == (4, 2, 0, "cpu", 2)
    assert pool([EIGHT, EIGHT]) == (2, 8, 0, "cpu", 8)
    assert pool([EIGHT, FOUR, {}], 3) == (3, 4, 0, "cpu", 4)
    assert pool([EIGHT, FOUR], 1) == (1, 8, 0, "cpu", 8)
    assert pool([GPUS, GPUS, EIGHT]) == (4, 1, 1, "cuda", 0)
    assert pool([GPUS], 1, threads=3) == (1, 3, 1, "cuda", 3)
    assert pool([GPUS], device="openvino") == (1, 16, 0, "openvino", 16)


def test_a_cluster_without_room_or_a_device_that_is_rays_to_choose() -> None:
    with pytest.raises(ClusterError, match="found room for 2 workers of 4 cores, expected room for 3; choose fewer"):
        pool([EIGHT], 3, threads=4)
    with pytest.raises(ClusterError, match=r"room for 0 workers of 1 core and a GPU, .*or --device cpu"):
        pool([EIGHT], device="cuda")
    with pytest.raises(OptionError, match="on a cluster Ray chooses the GPU; give 'cuda'"):
        pool([GPUS], device="cuda:1")


@pytest.mark.usefixtures("with_ray")
def test_outputs_of_a_cluster_that_are_its_input(
    bundle: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, out = source.read_text(), source.parent / "out"
    link = source.parent / "link.jsonl"
    link.symlink_to(source)
    for merge in (source, link):
        said = told(capsys, bundle, source, "--engine", "ray", "-o", out, "--merge", merge)
        assert "found the input itself" in said
    assert "holds the input in.jsonl" in told(capsys, bundle, source, "--engine", "ray", "-o", source.parent)
    assert source.read_text() == text and not out.exists()
