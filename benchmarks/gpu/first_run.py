"""The first half hour on a GPU: one command a step, for a machine without a network that takes little at a time.

    python benchmarks/gpu/pack_wheels.py --out .gpu          # beforehand, where there is a network
    first_run.py store .gpu/parts.json .gpu/site.000 --work WORK     # on the machine, one part or more a call
    first_run.py A --work WORK --out OUT                     # and so on, B to F, in this order
    first_run.py restore --work WORK --out OUT               # only if B says that the cut library does not run

Steps: A machine, ceilings of torch, checkpoints in the background; B the wheel, scores of small models, probes of
operators; C throughput of 8B; D times of kernels, cuDNN's attention; E scores and loading of 8B; F latency of 0.6B, and
what a CUDA graph would save of it.
Every step ends within its time, and OUT/first-run.json and OUT/gpu.json are written after each of its pieces: what was
measured before a failure is kept. What fails or finds no time is a message, and the rest still runs.

`--rehearse` runs the same with tiny shapes over a stub of CUDA (`./scripts/install --cuda-stub`): figures and scores
mean nothing there.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT), str(ROOT / "runtime")]  # the checkout need not be installed

from gpu import pack_wheels, parts  # noqa: E402
from gpu.children import BENCHMARKS, Budget, ChildFailed, OutOfTime, make_importable, run_json  # noqa: E402
from gpu.plan import FULL, REHEARSAL, Plan  # noqa: E402

PACKAGES = (
    "torch",
    "transformers",
    "onnxruntime",
    "onnx_ir",
    "numpy",
    "tokenizers",
    "safetensors",
    "jinja2",
    "ml_dtypes",
)
LIMIT_S = 600  # of a command, on such machines
Record = dict[str, Any]


@dataclass(frozen=True)
class Piece:
    """Something that is measured in a child process of at most `seconds`; `run` returns what is noted."""

    name: str
    seconds: float
    run: Callable[["FirstRun", Budget], Any]


class FirstRun:
    """The folders of a run, and its records as they grow.

    `work` holds what later steps need, `out` what the machine gives back after each call. `site`, once unpacked, comes
    before what the machine has installed.
    """

    def __init__(self, work: Path, out: Path, plan: Plan) -> None:
        self.work, self.out, self.plan = work, out, plan
        self.site, self.figures = work / "site", work / "gpu.json"
        for folder in (work, out):
            folder.mkdir(parents=True, exist_ok=True)
        if self.site.exists():
            path = [str(self.site), os.environ.get("PYTHONPATH", "")]
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, path))
        self._records = work / "first-run.json"
        self.records: Record = json.loads(self._records.read_text()) if self._records.exists() else {}

    def step(self, name: str) -> bool:
        """All pieces of a step; whether every one of them succeeded."""
        seconds, pieces = STEPS[name]
        budget, found = Budget(seconds), self.records.setdefault(name, {})
        for piece in pieces:
            begin = time.monotonic()
            found[piece.name] = self._piece(piece, budget) | {"seconds": round(time.monotonic() - begin, 1)}
            print(f"{name} {piece.name}: {json.dumps(found[piece.name])[:300]}", flush=True)
            self.save()
        return all(found[piece.name]["status"] == "ok" for piece in pieces)

    def _piece(self, piece: Piece, budget: Budget) -> Record:
        """A piece that fails must not take the others with it: time on a GPU is dear."""
        try:
            found = piece.run(self, Budget(min(piece.seconds, budget.left)))
        except OutOfTime:
            return {"status": "out of time"}
        except ChildFailed as error:
            return {"status": "failed", "message": str(error)}
        except Exception as error:  # whatever it meets
            return {"status": "failed", "message": f"{type(error).__name__}: {error}"[:2000]}
        failed = isinstance(found, dict) and found.get("passed") is False
        return {"status": "failed" if failed else "ok", "found": found}

    def save(self) -> None:
        """Both files, each replaced whole, in `work` for later steps and in `out`."""
        partial = self._records.with_suffix(".partial")
        partial.write_text(json.dumps(self.records, indent=1) + "\n")
        os.replace(partial, self._records)
        for path in (self._records, self.figures):
            if path.exists():
                shutil.copyfile(path, self.out / path.name)


def _machine(run: FirstRun, budget: Budget) -> Record:
    """Versions, and what nvidia-smi says; a package that is missing is None."""
    code = f"""
import importlib.metadata as m, json, platform
def version(name):
    try: return m.version(name)
    except m.PackageNotFoundError: return None
print(json.dumps({{"python": platform.python_version()}} | {{n: version(n) for n in {PACKAGES!r}}}))
"""
    try:
        smi = subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=budget.left, check=False).stdout
    except OSError as error:
        smi = str(error)
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=budget.left, check=True
    )
    versions: Record = json.loads(found.stdout)
    return versions | {"nvidia-smi": smi}


def _ceilings(run: FirstRun, budget: Budget) -> Record:
    """They join the figures of bench_gpu.py, which then measures none of its own."""
    found: Record = run_json("gpu.ceilings", ["--plan", run.plan.name], budget)
    _note_figures(run, {"ceilings": found})
    return {"best": found["best"]}


def _note_figures(run: FirstRun, more: Record) -> None:
    """Join these to the figures of bench_gpu.py."""
    figures = json.loads(run.figures.read_text()) if run.figures.exists() else {}
    figures |= {"smoke": run.plan is not FULL, "rehearsal": run.plan is REHEARSAL} | more
    run.figures.write_text(json.dumps(figures, indent=1) + "\n")


def _checkpoints(run: FirstRun, budget: Budget) -> Record:
    """Started in a session of its own: it goes on after this call has ended, small first."""
    log, done = run.work / "checkpoints.log", run.work / DONE
    done.unlink(missing_ok=True)
    make = f"{sys.executable} -m gpu.make_checkpoint --plan {run.plan.name} --work {run.work} --shape"
    command = f"[ -e {run.work}/0.6b-classifier/config.json ] || {make} small; "
    command += f"[ -e {run.work}/8b-armorm/config.json ] || {make} big; touch {done}"
    with log.open("a") as file:
        process = subprocess.Popen(["sh", "-c", command], stdout=file, stderr=file, start_new_session=True)
    return {"pid": process.pid, "log": str(log)}


def _await_checkpoints(run: FirstRun, budget: Budget) -> Record:
    """Until they are made, or their process has ended: what is missing then is made where it is needed.

    Made twice at once they would be damaged. Raises OutOfTime.
    """
    process = run.records.get("A", {}).get("checkpoints", {}).get("found", {}).get("pid", 0)
    while budget.left and not (run.work / DONE).exists() and process and Path(f"/proc/{process}").exists():
        time.sleep(0.5)
    return {"done": (run.work / DONE).exists()}


def _unpack(run: FirstRun, budget: Budget) -> Record:
    """Without parts the onnxruntime that is installed is used, as in a rehearsal."""
    if run.site.exists() or not (run.work / parts.LIST).exists():
        return {"site": str(run.site) if run.site.exists() else None}
    partial = run.work / "site.partial"
    shutil.rmtree(partial, ignore_errors=True)
    parts.unpack("site", run.work, partial)
    partial.rename(run.site)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(run.site), os.environ.get("PYTHONPATH", "")])
    return {"site": str(run.site)}


def _restore(run: FirstRun, budget: Budget) -> Record:
    """The code of other GPUs goes back into the library."""
    folder = run.work / "restore"
    shutil.rmtree(folder, ignore_errors=True)
    parts.unpack("restore", run.work, folder)
    pack_wheels.restore(folder, run.site)
    return {"restored": True}


def _json(module: str, *arguments: str) -> Callable[[FirstRun, Budget], Any]:
    """`python -m gpu.MODULE ARGUMENTS`, with the plan."""
    return lambda run, budget: run_json(f"gpu.{module}", [*arguments, "--plan", run.plan.name], budget)


def _provider(run: FirstRun, budget: Budget) -> Record:
    found: Record = run_json("gpu.provider_check", [], budget)
    if run.plan is REHEARSAL:
        found |= {"passed": "max_abs" in found}  # a stub computes nothing
    return found


def _bench(sections: str, *arguments: str) -> Callable[[FirstRun, Budget], Any]:
    """Sections of bench_gpu.py, whose figures are in `gpu.json`; its messages and what it prints at the end are noted.

    Messages of earlier pieces are in their own records: they are taken out of the figures first.
    """

    def run_sections(run: FirstRun, budget: Budget) -> Record:
        _note_figures(run, {"messages": {}})
        command = [sys.executable, str(BENCHMARKS / "bench_gpu.py"), "--work", str(run.work), "--sections", sections]
        command += ["--json", str(run.figures), "--budget-seconds", str(int(budget.left) - MARGIN_S), *arguments]
        command += ["--rehearse"] if run.plan is REHEARSAL else []
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=budget.left, env=environment, check=False
        )
        if done.returncode not in (0, 1):
            raise ChildFailed((done.stderr or done.stdout).strip()[-2000:])
        figures: Record = json.loads(run.figures.read_text())
        judged = figures.get("parity", []) if "parity" in sections and run.plan is FULL else []
        wrong = [f"{r['case']} on {r['engine']}" for r in judged if not r["passed"] and not r.get("informative")]
        passed = not figures["messages"] and not wrong
        return {"passed": passed, "wrong": wrong, "messages": figures["messages"], "printed": done.stdout[-4000:]}

    return run_sections


def _kernel_times(run: FirstRun, budget: Budget) -> Any:
    bundle = run.work / "8b-classifier.bundle"
    arguments = [str(bundle), "--dialect", run.plan.engines[0].dialect or "", "--plan", run.plan.name]
    return run_json("gpu.kernel_times", arguments, budget)


def _graph_probe(run: FirstRun, budget: Budget) -> Any:
    arguments = [str(run.work / "0.6b-classifier.bundle"), "--plan", run.plan.name]
    return run_json("gpu.graph_probe", arguments, budget)


DONE = "checkpoints.done"
MARGIN_S = 5  # for bench_gpu.py to end by itself
BIG, SMALL = ("--shape", "8b"), ("--shape", "0.6b")


def _only(*names: str) -> tuple[str, ...]:
    return tuple(part for name in names for part in ("--only", name))


# By step: seconds, and its pieces in the order of how much they matter.
STEPS: Mapping[str, tuple[float, tuple[Piece, ...]]] = {
    "A": (180, (
        Piece("machine", 60, _machine), Piece("ceilings", 100, _ceilings), Piece("checkpoints", 10, _checkpoints),
    )),
    "B": (280, (
        Piece("unpack", 60, _unpack), Piece("provider", 60, _provider), Piece("parity", 160, _bench("parity")),
        Piece("checkpoints", 60, _await_checkpoints), Piece("probes", 180, _bench("probes")),
    )),
    "C": (500, (
        Piece("checkpoints", 120, _await_checkpoints),
        Piece("throughput", 490, _bench("throughput", *BIG, *_only("ort-cuda-paged", "transformers-sdpa", "ort-cuda"))),
    )),
    "D": (240, (Piece("kernels", 120, _kernel_times), Piece("sdpa", 110, _json("sdpa_probe")))),
    "E": (360, (Piece("parity", 240, _bench("big-parity")), Piece("load", 110, _bench("load")))),
    "F": (240, (
        Piece("latency", 230, _bench(
            "latency", *SMALL, *_only("ort-cuda-paged", "transformers-sdpa", "transformers-compile-graphs")
        )),
        Piece("graph", 60, _graph_probe),
    )),
    "restore": (120, (Piece("restore", 60, _restore), Piece("provider", 50, _provider))),
}  # fmt: skip


def main() -> int:
    """0 when every piece of the step succeeded, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=(*STEPS, "store"))
    parser.add_argument("parts", nargs="*", type=Path, help="files of pack_wheels.py, for `store`")
    parser.add_argument("--work", type=Path, required=True, help="folder with 40 GB that stays between calls")
    parser.add_argument("--out", type=Path, help="folder for the JSON of each step (default: OUT in the work folder)")
    parser.add_argument("--rehearse", action="store_true", help="tiny shapes over a stub of CUDA")
    arguments = parser.parse_args()
    if arguments.step == "store":
        print(json.dumps(parts.store(arguments.parts, arguments.work)))
        return 0
    run = FirstRun(arguments.work, arguments.out or arguments.work / "out", REHEARSAL if arguments.rehearse else FULL)
    make_importable()
    return 0 if run.step(arguments.step) else 1


if __name__ == "__main__":
    sys.exit(main())
