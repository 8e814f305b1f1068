"""Whatever happens to a command, it ends with a status of its own and no traceback."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmexport import export
from rmexport.cli import main
from rmruntime.cli import main as score_main
from rmruntime.reward_model import RewardModel
from seeded_fuzz import seeded
from tiny_checkpoints import sequence_classifier

Command = Callable[[str, str], list[str]]
COMMANDS: dict[str, Command] = {
    "score: bundle": lambda path, place: ["score", path, f"{place}/in.jsonl"],
    "score: input": lambda path, place: ["score", f"{place}/b", path, "--on-error", "skip"],
    "score: output": lambda path, place: ["score", f"{place}/b", f"{place}/in.jsonl", "-o", path],
    "inspect": lambda path, place: ["inspect", path],
    "export: checkpoint": lambda path, place: ["export", path, f"{place}/new"],
    "export: recipe": lambda path, place: ["export", f"{place}/c", f"{place}/new", "--recipe", path],
    "diff": lambda path, place: ["diff", f"{place}/b", path],
    "bench: workload": lambda path, place: ["bench", f"{place}/b", "--workload", path, "--output", f"{place}/bench"],
    "bench: report": lambda path, place: ["bench", "--from-json", path],
    "compile": lambda path, place: ["compile", path, "--target", "tensorrt"],
}
ODD = [
    "", ".", "/", "/dev/null", "{place}", "{place}/absent/file.jsonl", "{place}/in.jsonl/x", "{place}/in.jsonl",
    "{place}/" + "x" * 300, "{place}/new\nline", "{place}/no\udcffutf8", "{place}/no\udcff.jsonl",
    "{place}/garbage.json", "{place}/garbage.parquet", "{place}/loop",
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle, the checkpoint it is of, and files; what commands write goes beside them."""
    folder = tmp_path_factory.mktemp("commands")
    checkpoint = sequence_classifier(folder / "made").folder
    checkpoint.rename(folder / "c")
    export(str(folder / "c"), folder / "b")
    for name in ("in.jsonl", "no\udcff.jsonl"):
        (folder / name).write_text('{"prompt": "a", "response": "b"}\n' * 3)
    for name in ("garbage.json", "garbage.parquet", "no\udcffutf8"):
        (folder / name).write_bytes(b"\xff\x00[{" * 9)
    (folder / "loop").symlink_to("loop")
    return folder


@pytest.fixture(scope="module")
def model(place: Path) -> Iterator[RewardModel]:
    with RewardModel.load(place / "b", device="cpu") as loaded:
        yield loaded


def check_said(status: int, said: str) -> None:
    assert status in (0, 1, 2) and "Traceback" not in said and "Exception" not in said
    assert status != 2 or "error: " in said


@seeded(40)
@given(st.sampled_from(sorted(COMMANDS)), st.sampled_from(ODD))
def test_odd_paths(
    place: Path,
    model: RewardModel,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    odd: str,
) -> None:
    path = odd.replace("{place}", str(place))
    if name == "score: output" and odd == "{place}/no\udcff.jsonl":
        path += "l"  # not what other commands read
    monkeypatch.chdir(place / "c")
    if name != "score: bundle":  # loaded once
        monkeypatch.setattr("rmruntime.score_file.load_model", lambda bundle, files: nullcontext(model))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if name == "bench: workload" and odd in ("{place}/in.jsonl", "{place}/no\udcff.jsonl"):
        return  # a benchmark, which takes its time
    for command in (main, score_main) if name.startswith("score") else (main,):
        check_said(command(COMMANDS[name](path, str(place))), capsys.readouterr().err)
    assert not list(place.glob(".*.partial*"))
    shutil.rmtree(place / "new", ignore_errors=True)  # some paths are good ones: "." is the checkpoint


# Commands as processes

SCRIPT = "from {package}.cli import main; print(end='', flush=True); raise SystemExit(main())"


def started(arguments: Sequence[str], package: str = "rmexport", **streams: object) -> "subprocess.Popen[bytes]":
    def prepare() -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)  # the children of a background job ignore some

    command = [sys.executable, "-c", SCRIPT.format(package=package), *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, preexec_fn=prepare, env=environment, **streams)  # type: ignore[call-overload, no-any-return]


def shell(line: str, place: Path) -> tuple[int, str]:
    """The status and standard error of a command line in which RM stands for rmexport."""
    command = line.replace("RM", f"{sys.executable} -m rmexport")
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], cwd=place, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


STREAMS = [
    ("RM recipes >&-", 2, "standard output: cannot be written"),
    ("RM recipes >/dev/full", 2, "No space left"),
    ("RM --help >/dev/full", 2, "No space left"),
    ("RM recipes | true", 2, "closed the pipe"),
    ("RM recipes 2>&- >/dev/null", 0, ""),
    ("RM score b in.jsonl | head -c 0", 2, "closed the pipe"),
    ("RM score b in.jsonl >/dev/full", 2, "No space left"),
    ("RM score b - <&-", 2, "standard input: cannot be read"),
    ("RM score b in.jsonl 0<&- 2>&- >/dev/null", 0, ""),
    ("RM score b in.jsonl >>in.jsonl", 2, "found the input itself"),
    ("RM wrong 2>/dev/full", 2, ""),
]


@pytest.mark.parametrize(("line", "status", "words"), STREAMS, ids=[line for line, *_ in STREAMS])
def test_closed_and_full_streams(place: Path, line: str, status: int, words: str) -> None:
    before = (place / "in.jsonl").read_text()
    if "| true" in line:
        line = line.replace("RM recipes", "(sleep 0.3; RM recipes)")  # the reader is gone by then
    found, said = shell(line, place)
    assert found == status and words in said
    assert "Traceback" not in said and "Exception" not in said
    assert (place / "in.jsonl").read_text() == before


@pytest.mark.parametrize(
    ("command", "number"),
    [("score", signal.SIGINT), ("score", signal.SIGTERM), ("export", signal.SIGINT), ("inspect", signal.SIGINT)],
)
def test_signals_at_any_time(place: Path, tmp_path: Path, command: str, number: signal.Signals) -> None:
    """Among others while it imports: from `main` on, nothing half-written is left, and nothing is printed but words."""
    lines = [json.dumps({"prompt": "a", "response": f"b {i}"}) for i in range(9000)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    arguments = {
        "inspect": ["inspect", f"{place}/c", "--check", "full"],
        "score": ["score", f"{place}/b", f"{tmp_path}/in.jsonl", "-o", f"{tmp_path}/out.jsonl"],
        "export": ["export", f"{place}/c", f"{tmp_path}/new"],
    }[command]
    rng = random.Random(f"{command} {number}")
    for delay in (rng.uniform(0.0, 0.2), rng.uniform(0.2, 1.2)):
        process = started(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        wait_until_heeded(process.pid)
        time.sleep(delay)
        process.send_signal(number)
        said = process.communicate(timeout=60)[1].decode()
        # Python takes its handlers off while it ends: the work is done then, and the signal itself is the status.
        assert process.returncode in (0, 128 + number, -number), said
        assert "Traceback" not in said and "Exception" not in said
        hidden = [name for name in os.listdir(tmp_path) if name.startswith(".out.jsonl")]
        assert not hidden
        (tmp_path / "out.jsonl").unlink(missing_ok=True)


def wait_until_heeded(pid: int) -> None:
    """Until the process handles SIGTERM, which Python alone does not."""
    bit = 1 << (signal.SIGTERM - 1)
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            return
        caught = next((int(line.split()[1], 16) for line in lines if line.startswith("SigCgt")), bit)
        if caught & bit:
            return
        time.sleep(0.002)
