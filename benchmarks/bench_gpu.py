"""Everything about GPUs in one run: ceilings, open choices, parity, latency, throughput, load time and memory.

It makes its own checkpoints with random weights: an ArmoRM of 8B shape and a classifier over the same trunk (what
transformers and vLLM can score), and a classifier of Qwen3-0.6B's shape. `--work` needs 20 GB. Without a GPU it ends
at once; `--smoke` runs the same code with tiny shapes on the CPU, and `--rehearse` our engines with them over a stub of
CUDA: their figures mean nothing. `--json` is written after every finished piece, and read first where it exists:
sections can be run one at a time.
"""

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "runtime")]  # the checkout need not be installed

from gpu import loading, parity, report  # noqa: E402
from gpu.children import Budget, ChildFailed, OutOfTime, make_importable, run_json  # noqa: E402
from gpu.contestants import compare, contestants, measure_all  # noqa: E402
from gpu.device import facts  # noqa: E402
from gpu.models import Models  # noqa: E402
from gpu.plan import FULL, KINDS, REHEARSAL, SMOKE, Plan, Shape  # noqa: E402
from gpu.workloads import Workload, workloads  # noqa: E402

from rmruntime.errors import EngineUnusable  # noqa: E402

SECTIONS = ("probes", "parity", "big-parity", "latency", "throughput", "load")
RESULTS = Path(__file__).resolve().parent / "results"
Results = dict[str, Any]


class Run:
    """The results as they grow."""

    def __init__(self, arguments: argparse.Namespace, plan: Plan, machine: Results) -> None:
        self._arguments, self._plan = arguments, plan
        self._budget = Budget(arguments.budget_seconds)
        arguments.work.mkdir(parents=True, exist_ok=True)
        self._models = Models(arguments.work, plan, self._budget)
        self.results = _earlier(arguments.json, plan)
        self.results |= {"smoke": plan is not FULL, "rehearsal": plan is REHEARSAL, "machine": machine}
        self.results["messages"] = self.results.get("messages", {})
        self.results["flops_per_token"] = {shape.name: shape.flops_per_token for shape in plan.shapes}

    def section(self, name: str) -> None:
        """One section; what fails in it, or finds no time, is a message, and the others still run."""
        begin = time.monotonic()
        print(f"# {name}", flush=True)
        try:
            with self._noting(name):
                self._do[name]()
        except OutOfTime:
            self.results["messages"][name] = "the budget was spent"
        self.results.setdefault("seconds", {})[name] = time.monotonic() - begin
        self.save()

    @contextmanager
    def _noting(self, name: str) -> Iterator[None]:
        """What fails is a message: time on a GPU is too dear to lose the rest. Raises OutOfTime."""
        self.results["messages"].pop(name, None)
        try:
            yield
        except OutOfTime:
            raise
        except ChildFailed as error:
            self.results["messages"][name] = str(error)
        except Exception:  # whatever it meets
            self.results["messages"][name] = traceback.format_exc()[-2000:]

    @property
    def _do(self) -> dict[str, Callable[[], None]]:
        return {
            "probes": self._probes,
            "parity": lambda: self._parity(parity.measure_small),
            "big-parity": lambda: self._parity(parity.measure_big),
            "latency": lambda: self._contest("latency"),
            "throughput": lambda: self._contest("throughput"),
            "latency and throughput": lambda: self._contest("latency", "throughput"),
            "load": self._load,
        }

    def save(self) -> None:
        """Replace the file whole: a run may be killed at any time."""
        path = self._arguments.json
        if path is not None:
            partial = path.with_name(f"{path.name}.partial")
            partial.write_text(json.dumps(self.results, indent=1) + "\n")
            os.replace(partial, path)

    def _ceilings(self) -> None:
        if "ceilings" not in self.results:
            with self._noting("ceilings"):
                self.results["ceilings"] = run_json("gpu.ceilings", ["--plan", self._plan.name], self._budget)
            self.save()

    def _probes(self) -> None:
        self._ceilings()
        found: Results = {"tensorrt": []}
        self.results["probes"] = found
        for kind in KINDS:  # a process each: a kernel that fails badly takes the process with it
            with self._noting(f"probes of {kind}"):
                found[kind] = self._probe(kind)
            self.save()
        for library in ("tensorrt", "tensorrt_rtx"):
            with self._noting(f"probe of {library}"):
                found["tensorrt"].append(run_json("gpu.tensorrt_probe", [library], self._budget))

    def _probe(self, kind: str) -> Any:
        return run_json("gpu.operator_probes", [kind, "--plan", self._plan.name], self._budget)["found"]

    def _parity(self, measure: Callable[[Models, Plan, Budget], Iterator[Results]]) -> None:
        for record in measure(self._models, self._plan, self._budget):
            records = self.results.setdefault("parity", [])
            records[:] = [r for r in records if (r["case"], r["engine"]) != (record["case"], record["engine"])]
            records.append(record)
            verdict = "passed" if record["passed"] else record.get("message", "FAILED")
            print(f"{record['case']} on {record['engine']}: {verdict}", flush=True)
            self.save()

    def _contest(self, *sections: str) -> None:
        """Every contestant on every shape, one process at a time: a model is loaded once for both sections."""
        self._ceilings()
        for size, shape in (("small", self._plan.small), ("big", self._plan.big)):
            if not self._arguments.shape or shape.name in self._arguments.shape:
                with self._noting(f"contestants of {shape.name}"):
                    self._contest_of(size, shape, workloads(self._plan, sections))

    def _contest_of(self, size: str, shape: Shape, wanted: list[Workload]) -> None:
        bundle, checkpoint = (make(size, "classifier") for make in (self._models.bundle, self._models.checkpoint))
        known, only = contestants(self._plan, bundle, checkpoint), self._arguments.only
        chosen = [one for one in known if not only or one.name in only]
        records = self.results.setdefault("contestants", {}).setdefault(shape.name, [])
        for record in measure_all(chosen, wanted, self._plan, self._budget):
            _merge(records, record)
            compare(records)
            print(f"{shape.name}: {record['name']}: {record['status']} ({record['wall_s']:.0f} s)", flush=True)
            self.save()

    def _load(self) -> None:
        self.results["load"] = []
        for record in loading.measure(self._models, self._plan, self._budget):
            self.results["load"].append(record)
            print(json.dumps(record), flush=True)
            self.save()


def _earlier(path: Path | None, plan: Plan) -> Results:
    """What an earlier run has written, of the same kind."""
    if path is None or not path.exists():
        return {}
    found: Results = json.loads(path.read_text())
    kind = REHEARSAL.name if found.get("rehearsal") else SMOKE.name if found.get("smoke") else FULL.name
    if kind != plan.name:
        sys.exit(f"{path} is of a {kind} run, this is a {plan.name} run; give another --json")
    return found


def _merge(records: list[Results], record: Results) -> None:
    """A contestant's later workloads join those of an earlier section."""
    known = next((r for r in records if r["name"] == record["name"]), None)
    if known is None:
        records.append(record)
    else:
        known |= record | {"workloads": known["workloads"] | record["workloads"]}


def _planned(sections: list[str]) -> list[str]:
    """Latency and throughput as one where both are asked for."""
    joined = "latency and throughput"
    if {"latency", "throughput"} <= set(sections):
        sections = [joined if name == "latency" else name for name in sections if name != "throughput"]
    return sections


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder with 20 GB free; what is there is used again")
    parser.add_argument("--sections", default=",".join(SECTIONS), help=f"of {', '.join(SECTIONS)} (default: all)")
    parser.add_argument("--shape", action="append", help="8b or 0.6b (repeatable; default: both)")
    parser.add_argument("--only", action="append", metavar="NAME", help="a contestant (repeatable; default: all)")
    parser.add_argument("--budget-seconds", type=float, default=3600.0, help="stop after so long (default: 3600)")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument(
        "--smoke", action="store_true", help="tiny shapes on the CPU: whether the code runs, no figures"
    )
    parser.add_argument(
        "--rehearse",
        action="store_true",
        help="tiny shapes, ours over a stub of CUDA: whether the code runs, no scores",
    )
    arguments = parser.parse_args()
    arguments.sections = [name for name in arguments.sections.split(",") if name]
    unknown = sorted(set(arguments.sections) - set(SECTIONS))
    if unknown:
        parser.error(f"--sections has {', '.join(unknown)}, expected some of {', '.join(SECTIONS)}")
    tiny = "--smoke" if arguments.smoke else "--rehearse" if arguments.rehearse else ""
    if tiny and arguments.json is not None and arguments.json.resolve().parent == RESULTS:
        parser.error(f"{tiny} measures nothing that belongs into {RESULTS.name}; give another --json")
    return arguments


def main() -> int:
    """0 when everything asked for was measured; 1 when a section, parity or one of ours failed; 2 without a GPU."""
    arguments = _parse()
    make_importable()
    try:
        machine = facts(gpu=not arguments.smoke)
    except EngineUnusable as error:
        print(
            f"error: {', '.join(arguments.sections)} need a GPU: {error}; or try the code with --smoke", file=sys.stderr
        )
        return 2
    print("\n".join(f"# {key}: {value}" for key, value in machine.items()))
    run = Run(arguments, SMOKE if arguments.smoke else REHEARSAL if arguments.rehearse else FULL, machine)
    for name in _planned(arguments.sections):
        run.section(name)
    for name, message in run.results["messages"].items():
        print(f"{name} did not finish: {message}")
    print(report.text(report.rows(run.results)))
    return 1 if run.results["messages"] or report.failures(run.results) else 0


if __name__ == "__main__":
    sys.exit(main())
