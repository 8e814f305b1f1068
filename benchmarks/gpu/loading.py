"""Section `load`: a bundle from page cache to its first score, with the memory of host and device."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from gpu.children import Budget, TimedWorker
from gpu.contestants import OWN_PEERS
from gpu.device import used_memory
from gpu.models import Models, warm_page_cache
from gpu.plan import Engine, Plan
from gpu.workloads import parity_records
from rmexport.bench.worker.scorer import LoadOptions
from rmexport.errors import ContestantError
from rmruntime.bundle import Bundle

Record = dict[str, Any]


def measure(models: Models, plan: Plan, budget: Budget) -> Iterator[Record]:
    """A record an engine; seconds, and bytes beyond what the device had in use before."""
    bundle = models.bundle("big", "armorm")
    manifest = Bundle.open(bundle).manifest
    records = parity_records(plan, manifest.positions["gate"].tokens)
    nbytes = warm_page_cache(bundle)
    for engine in plan.engines:
        record: Record = {"engine": engine.name, "bundle_bytes": nbytes}
        process = TimedWorker(OWN_PEERS / "bundle_engine.py", budget)
        try:
            record |= _loaded(process, str(bundle), engine, plan, records)
        except ContestantError as error:
            record["message"] = str(error)
        finally:
            process.close()
        yield record


def _loaded(process: TimedWorker, folder: str, engine: Engine, plan: Plan, records: list[Record]) -> Record:
    options = LoadOptions(
        device=engine.device, max_batch_tokens=plan.pass_tokens[-1], extra={"dialect": engine.dialect}
    )
    before = used_memory()
    process.ask("hello")
    loaded = process.ask("load", folder=folder, dtype="auto", threads=0, options=asdict(options))
    record: Record = {"load_s": loaded["seconds"], "host_after_load": process.memory.record()}
    record["device_after_load"] = _since(before)
    process.ask("workload", requests=[{"sequences": [r["input_ids"]], "records": [r]} for r in records])
    record["first_score_s"] = process.ask("single", order=[0], limit_s=60.0)["latency_ms"][0] / 1e3
    process.ask("offline")
    return record | {"host_after_scoring": process.memory.record(), "device_after_scoring": _since(before)}


def _since(before: int | None) -> int | None:
    now = used_memory()
    return None if before is None or now is None else now - before
