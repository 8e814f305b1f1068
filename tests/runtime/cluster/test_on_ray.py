"""`score --engine ray` on a cluster of two machines in local processes: killed workers, killed runs, the same bytes.

Commands run in processes of their own, as users give them; nothing of Ray is in the process of the tests.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import pytest

from rmexport import ExportOptions, export
from rmruntime.options import ScoreOptions
from rmruntime.score_file import FileOptions, score_file

EXAMPLES = Path(__file__).parents[3] / "examples"
COMMAND = [sys.executable, "-c", "from rmruntime.cli import main; raise SystemExit(main())", "score"]
BLOCK = 475  # records; a block takes long enough to be killed in the middle
PATIENCE = 120.0  # seconds for anything at all


class Place:
    """A bundle, an input, what one process makes of it, and a cluster."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.source = folder, folder / "in.jsonl"
        self.bundle, self.expected = folder / "bundle", folder / "expected.jsonl"
        self.environment = os.environ | {
            "RAY_TMPDIR": tempfile.mkdtemp(prefix="rm-"),  # short: names of sockets have a limit
            "RAY_AUTH_MODE": "disabled",  # no token in the home folder
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONWARNINGS": "ignore",
        }
        export(str(EXAMPLES / "armorm-tiny"), self.bundle, ExportOptions(dtype="fp32"))
        records = [json.loads(line) for line in (EXAMPLES / "pairs.jsonl").read_text().splitlines()] * 2
        for record in records[::2]:
            record.pop("id", None)
        self.source.write_text("".join(json.dumps(record) + "\n" for record in records))
        files = FileOptions(input=str(self.source), output=str(self.expected), device="ort-cpu", threads=1)
        self.summary = score_file(str(self.bundle), files, ScoreOptions())

    def start(self, *arguments: object, source: Path | None = None) -> subprocess.Popen[str]:
        engine = ("--engine", "ray", "--device", "ort-cpu", "--threads", 1, "--block-records", BLOCK)
        command = [*COMMAND, self.bundle, source or self.source, *engine, *arguments]
        return subprocess.Popen(
            [str(word) for word in command], env=self.environment, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip

    def run(self, *arguments: object) -> tuple[int, str]:
        process = self.start(*arguments)
        said = process.communicate(timeout=PATIENCE)[1]
        return process.returncode, said


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    made = Place(tmp_path_factory.mktemp("ray"))
    yield made
    shutil.rmtree(made.environment["RAY_TMPDIR"], ignore_errors=True)


@pytest.fixture(scope="module")
def cluster(place: Place) -> Iterator[tuple[object, ...]]:
    """The arguments that name it; none of its processes is left in the end."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("two_machines.py"))],
        env=place.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    address = process.stdout.readline().strip()
    assert re.fullmatch(r"[\d.]+:\d+", address)
    yield ("--ray-address", address)
    process.stdin.close()
    process.wait(PATIENCE)
    process.stdout.close()
    assert_gone(process.pid)


def processes_of(session: int) -> list[int]:
    """Processes of a session, dead ones that nobody has waited for apart."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, own = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if own == str(session) and state != "Z":
            found.append(int(path.parent.name))
    return found


def assert_gone(session: int) -> None:
    until = time.monotonic() + PATIENCE
    while (left := processes_of(session)) and time.monotonic() < until:
        time.sleep(0.1)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def wait_for(what: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < until, "nothing happened"
        time.sleep(0.002)


def kill_writers(output: Path, block: int, times: int) -> Thread:
    """Kill the worker that writes a block, and the next one that does."""

    def kill() -> None:
        killed: set[int] = set()
        while len(killed) < times:
            wait_for(lambda: bool(writers(output, block) - killed))
            for pid in writers(output, block) - killed:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)

    thread = Thread(target=kill)
    thread.start()
    return thread


def writers(output: Path, block: int) -> set[int]:
    """Processes that have a partial shard of the block open."""
    partial = {str(path) for path in output.resolve().glob(f".part-{block:05}-*.partial")}
    opened = Path("/proc").glob("[0-9]*/fd/*") if partial else ()
    return {int(link.parts[2]) for link in opened if target(link) in partial}


def target(link: Path) -> str:
    try:
        return os.readlink(link)
    except OSError:  # closed meanwhile, or another user's
        return ""


def joined(output: Path) -> str:
    return "".join(path.read_text() for path in sorted(output.glob("part-*")))


@pytest.mark.ladder
def test_a_killed_worker_loses_nothing_and_doubles_nothing(place: Place, cluster: tuple[object, ...]) -> None:
    output, merged = place.folder / "worker", place.folder / "worker.jsonl"
    killer = kill_writers(output, 1, 1)
    status, said = place.run(*cluster, "--workers", 2, "-o", output, "--merge", merged)
    killer.join()
    assert status == 0, said
    assert joined(output) == merged.read_text() == place.expected.read_text()
    for line in place.summary.text().splitlines()[1:]:
        assert line in said
    assert f"{place.summary.records} records, {place.summary.statistics.sequences} sequences on ort-cpu" in said
    assert "2 workers on 1 machine," in said and "1 worker died at work" in said
    assert not [path for path in output.iterdir() if path.name.startswith(".")]


@pytest.mark.ladder
def test_a_killed_run_goes_on_where_it_ended(place: Place, cluster: tuple[object, ...]) -> None:
    output = place.folder / "run"
    process = place.start(*cluster, "--workers", 2, "-o", output)
    wait_for(lambda: len(list((output / "_journal").glob("block-*.json"))) >= 2)
    process.kill()
    process.communicate()
    done = {path: path.stat() for path in output.glob("part-*")}
    status, said = place.run(*cluster, "--workers", 1, "-o", output)
    assert status == 0, said
    assert 2 <= len(done) < 4 and f"{BLOCK * len(done)} of the records were scored by earlier runs" in said
    for path, before in done.items():
        assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert joined(output) == place.expected.read_text()
    nowhere = ("-o", output, "--ray-address", "127.0.0.1:1")
    status, said = place.run(*nowhere)  # nothing is left to do, so no cluster is needed
    assert status == 0 and place.summary.text().splitlines()[1] in said
    status, said = place.run(*nowhere, "--overwrite")
    assert status == 2 and "address '127.0.0.1:1': nothing answers there" in said


@pytest.mark.ladder
def test_a_block_that_ends_every_worker(place: Place, cluster: tuple[object, ...]) -> None:
    output = place.folder / "deadly"
    arguments = (*cluster, "--workers", 2, "-o", output)
    killer = kill_writers(output, 2, 3)
    status, said = place.run(*arguments)
    killer.join()
    assert status == 2
    assert f"in.jsonl: block 2 (records {2 * BLOCK} to {3 * BLOCK - 1}) ended its worker 3 times" in said
    assert re.search(r"\d of 4 blocks are done and stay in \S+; the same command goes on with the others", said)
    killer = kill_writers(output, 2, 3)
    status, said = place.run(*arguments, "--on-error", "skip")
    killer.join()
    assert status == 0 and f"{BLOCK} records could not be scored" in said, said
    found, expected = joined(output).splitlines(), place.expected.read_text().splitlines()
    kept = slice(2 * BLOCK, 3 * BLOCK)
    assert found[: kept.start] + found[kept.stop :] == expected[: kept.start] + expected[kept.stop :]
    for one, other in zip(found[kept], expected[kept], strict=True):
        assert json.loads(one)["id"] == json.loads(other)["id"] and "3 times" in json.loads(one)["error"]


def test_a_cluster_of_its_own(place: Place) -> None:
    """Tables in, tables out, with the columns of all in each, and no process of Ray's afterwards."""
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    expected = [json.loads(line) for line in place.expected.read_text().splitlines()]
    lines = enumerate(place.source.read_text().splitlines())
    pairs = [(row, expected[i]["chosen_score"]) for i, row in ((i, json.loads(line)) for i, line in lines)]
    pairs = [(row, score) for row, score in pairs if isinstance(row["prompt"], str)][:600]
    rows = [row for row, _ in pairs]
    rows[500]["chosen"] = None
    source, output = place.folder / "in.parquet", place.folder / "tables"
    columns = {name: [row.get(name) for row in rows] for name in ("id", "prompt", "chosen", "rejected")}
    parquet.write_table(pyarrow.table(columns), source, row_group_size=250)
    command = ("--shards", "parquet", "-o", output, "--workers", 1, "--on-error", "skip")
    process = place.start(*command, source=source)
    said = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 0, said
    assert_gone(process.pid)
    assert len({str(parquet.read_schema(path)) for path in output.glob("part-*")}) == 1
    found = parquet.read_table(output).to_pylist()
    assert [row["id"] for row in found] == [str(row.get("id", i)) for i, row in enumerate(rows)]
    assert [row["chosen_score"] for row in found] == [None if i == 500 else s for i, (_, s) in enumerate(pairs)]
    assert [i for i, row in enumerate(found) if row["error"]] == [500]
    assert "1 worker on 1 machine" in said and "1 records could not be scored" in said
