"""Who takes part, and how each is measured: one process at a time, loaded once, batch sizes tried before timing."""

import importlib.util
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from gpu.children import Budget, OutOfTime, TimedWorker
from gpu.device import used_memory
from gpu.plan import Plan
from gpu.workloads import Workload
from rmexport.bench.agreement import agreement
from rmexport.bench.peers import file_of, peers
from rmexport.bench.sample_statistics import statistics_of
from rmexport.bench.worker.scorer import LoadOptions
from rmexport.errors import ContestantError, ContestantMissing

OWN_PEERS = Path(__file__).resolve().parent / "peers"
PEER = "transformers-sdpa"  # whom the targets name, and whose scores the others' are compared with
NOISE = 2.0  # times the tolerance of trained models
Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """`batches` are tried in turn: tokens of a pass for ours, sequences of a batch for peers.

    `needs` must be importable beside what the module names; `measures` are the worker's commands that it is asked.
    """

    name: str
    module: Path
    folder: Path
    device: str
    batches: tuple[int, ...]
    ours: bool = False
    dtype: str = "bf16"
    extra: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    measures: tuple[str, ...] = ("single", "offline")


def contestants(plan: Plan, bundle: Path, checkpoint: Path) -> list[Contestant]:
    """Ours first, then the peers in the order of how much their figures matter here."""
    return [*_ours(plan, bundle), *_torch_peers(plan, checkpoint), *_library_peers(plan, checkpoint)]


def _ours(plan: Plan, bundle: Path) -> Iterator[Contestant]:
    module = OWN_PEERS / "bundle_engine.py"
    for engine in plan.engines:
        yield Contestant(
            name=engine.name, module=module, folder=bundle, device=engine.device, batches=plan.pass_tokens, ours=True,
            dtype="auto", extra={"dialect": engine.dialect},
        )  # fmt: skip
    if (bundle / "engines" / "tensorrt").is_dir():  # compiled by hand beforehand: it takes minutes
        yield Contestant(
            name="tensorrt", module=module, folder=bundle, device="tensorrt", batches=plan.pass_tokens, ours=True,
            dtype="auto", extra={"dialect": None},
        )  # fmt: skip


def _torch_peers(plan: Plan, checkpoint: Path) -> Iterator[Contestant]:
    def peer(name: str, extra: Mapping[str, Any], *measures: str, needs: tuple[str, ...] = ()) -> Contestant:
        return Contestant(
            name=name, module=OWN_PEERS / "torch_classifier.py", folder=checkpoint, device=plan.torch_device,
            batches=plan.peer_batches, extra=extra, measures=measures or ("single", "offline"), needs=needs,
        )  # fmt: skip

    yield peer(PEER, {"attention": "sdpa"})
    yield peer("transformers-flash", {"attention": "flash_attention_2"}, needs=("flash_attn",))
    yield peer("transformers-compile", {"attention": "sdpa", "compile": "dynamic"}, "offline")
    # One shape, the same again and again: where CUDA graphs help torch most.
    yield peer("transformers-compile-graphs", {"attention": "sdpa", "compile": "reduce-overhead"}, "single")


def _library_peers(plan: Plan, checkpoint: Path) -> Iterator[Contestant]:
    """Of `rmexport bench`: a prefix's KV cache repeated by hand, and vLLM."""
    for name, batches in (("transformers-kv", (plan.best_of[1],)), ("vllm", (0,))):
        yield Contestant(
            name=name, module=file_of(peers()[name]), folder=checkpoint, device=plan.torch_device,
            batches=tuple(max(1, b) for b in batches), measures=("offline",) if batches[0] else ("single", "offline"),
        )  # fmt: skip


class Measured:
    """One contestant's process, and the record that grows while it is measured."""

    def __init__(self, contestant: Contestant, plan: Plan, budget: Budget) -> None:
        self._contestant, self._plan, self._budget = contestant, plan, budget
        self.record: Record = {"name": contestant.name, "ours": contestant.ours, "status": "ok", "workloads": {}}
        self._process: TimedWorker

    def run(self, workloads: list[Workload]) -> Record:
        """Load and measure; a failure is the record's message. Raises OutOfTime before anything is started."""
        missing = [name for name in self._contestant.needs if importlib.util.find_spec(name) is None]
        if missing:
            return self.record | {"status": "not installed", "message": ", ".join(missing)}
        before = used_memory()
        self._process = TimedWorker(self._contestant.module, self._budget)
        try:
            self._measure(workloads)
        except ContestantError as error:
            status = "not installed" if isinstance(error, ContestantMissing) else "failed"
            self.record |= {"status": status, "message": str(error)}
        except OutOfTime:
            self.record |= {"status": "out of time", "message": "the budget was spent while it was measured"}
        finally:
            after = used_memory()
            self.record["device_bytes"] = None if before is None or after is None else after - before
            self.record["host_bytes"] = self._process.memory.record()
            self._process.close()
        return self.record

    def _measure(self, workloads: list[Workload]) -> None:
        hello = self._process.ask("hello")
        self.record["versions"] = hello["versions"]
        if hello["missing"]:
            raise ContestantMissing(", ".join(hello["missing"]))
        self.record["load_s"] = self._load(self._contestant.batches[0])["seconds"]
        for workload in workloads:
            if workload.measure in self._contestant.measures:
                self._process.ask("workload", requests=workload.as_command())
                found = self._single(workload) if workload.measure == "single" else self._offline(workload)
                self.record["workloads"][workload.name] = found

    def _load(self, batch: int) -> Record:
        """Load, or set another batch size on what is loaded already."""
        one = self._contestant
        options = LoadOptions(device=one.device, extra=one.extra)
        options = replace(options, max_batch_tokens=batch) if one.ours else replace(options, batch=batch)
        loaded = self._process.ask("load", folder=str(one.folder), dtype=one.dtype, threads=0, options=asdict(options))
        self.record |= {"precision": loaded["precision"], "settings": loaded["settings"]}
        return loaded

    def _single(self, workload: Workload) -> Record:
        """Latencies of one sequence at a time, in ms."""
        count = len(workload.requests)
        order = [i % count for i in range(self._plan.single_samples)]
        self._process.ask("single", order=order[: self._plan.warm_up], limit_s=self._budget.left)
        found = self._process.ask("single", order=order, limit_s=min(60.0, self._budget.left))
        return {"latency_ms": statistics_of(found["latency_ms"]), "tokens": len(workload.requests[0][0])}

    def _offline(self, workload: Workload) -> Record:
        """The best of `repeats` passes with the batch size that was best in one pass of each, after one to warm up."""
        tried: dict[int, float | str] = {}
        for batch in self._contestant.batches:
            try:
                self._reload(batch)
                self._process.ask("offline")  # compiles, allocates, looks for kernels: each size anew
                tried[batch] = self._process.ask("offline")["seconds"]
            except ContestantError as error:
                tried[batch] = str(error)  # too much for the device, or a process that has ended
        seconds = {batch: value for batch, value in tried.items() if isinstance(value, float)}
        if not seconds:
            raise ContestantError("; ".join(f"batch {batch}: {value}" for batch, value in tried.items()))
        best = min(seconds, key=lambda batch: seconds[batch])
        self._reload(best)
        passes = [self._process.ask("offline") for _ in range(self._plan.repeats)]
        fastest = min(p["seconds"] for p in passes)
        return {
            "seconds": fastest, "passes": [p["seconds"] for p in passes], "tried": tried,
            "batch": best if len(self._contestant.batches) > 1 else None,
            "tokens": workload.tokens, "tokens_per_s": workload.tokens / fastest, "computed": passes[-1]["computed"],
            "padded": passes[-1]["padded"], "scores": passes[-1]["scores"],
        }  # fmt: skip

    def _reload(self, batch: int) -> None:
        if len(self._contestant.batches) > 1:
            self._load(batch)


def compare(records: list[Record]) -> None:
    """Note in every offline workload whether its scores are those of PEER, or of the first where PEER has none.

    Random weights are noisier than trained ones, so twice the tolerance passes: of 32 random layers, transformers' two
    attentions in bf16 give scores that differ by 0.02 of their standard deviation (root mean square); a wrong
    position or mask moves them by as much as they vary.
    """
    for name in {name for record in records for name, found in record["workloads"].items() if "scores" in found}:
        having = [record for record in records if "scores" in record["workloads"].get(name, {})]
        reference = next((record for record in having if record["name"] == PEER), having[0])
        for record in having:
            found, precisions = record["workloads"][name], (str(reference["precision"]), str(record["precision"]))
            parity = agreement(reference["workloads"][name]["scores"], found["scores"], precisions, ())
            same = parity["max_abs"] is not None and parity["max_abs"] <= NOISE * parity["tolerance"]
            found["parity"] = parity | {"reference": reference["name"], "same": same}


def measure_all(chosen: list[Contestant], workloads: list[Workload], plan: Plan, budget: Budget) -> Iterator[Record]:
    """Records one by one, as they are known. Raises OutOfTime."""
    for contestant in chosen:
        begin = time.monotonic()
        record = Measured(contestant, plan, budget).run(workloads)
        yield record | {"wall_s": time.monotonic() - begin}
