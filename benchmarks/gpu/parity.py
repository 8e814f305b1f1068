"""Section `parity`: `rmexport verify` of every engine, with the fp32 reference on the same device."""

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bench_checkpoints import EXAMPLE

from gpu.children import Budget, ChildFailed, run_json
from gpu.models import Models
from gpu.plan import RANDOM_MODELS, REHEARSAL, Engine, Plan
from gpu.workloads import parity_records
from rmexport import ExportOptions, export
from rmruntime.bundle import Bundle

Record = dict[str, Any]
Dtype = Literal["bf16", "fp16"]
DTYPES: tuple[Dtype, ...] = ("bf16", "fp16")
TENSORRT = Engine(name="tensorrt", device="tensorrt")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A bundle, the checkpoint it was made from, and records of its own where the built-in ones are too short."""

    name: str
    bundle: Path
    checkpoint: Path
    data: Path | None = None


def measure_small(models: Models, plan: Plan, budget: Budget) -> Iterator[Record]:
    """A record a small bundle and engine: `passed`, `checks`, or the `message` of what failed."""
    for case in _small_cases(models.work, budget):
        for engine in plan.engines:
            yield _verified(case, engine, plan, budget)
        if plan is not REHEARSAL and any(importlib.util.find_spec(name) for name in ("tensorrt", "tensorrt_rtx")):
            yield _compiled(case, plan, budget)


def measure_big(models: Models, plan: Plan, budget: Budget) -> Iterator[Record]:
    """The same of the big shape's ArmoRM; the best graph first."""
    bundle, checkpoint = models.bundle("big", "armorm"), models.checkpoint("big", "armorm")
    data = models.work / "parity.jsonl"
    gate = Bundle.open(bundle).manifest.positions["gate"].tokens
    data.write_text("".join(json.dumps(record) + "\n" for record in parity_records(plan, gate)))
    case = Case(name=f"{plan.big.name} ArmoRM, bf16", bundle=bundle, checkpoint=checkpoint, data=data)
    for engine in plan.engines:
        yield _verified(case, engine, plan, budget)


def _small_cases(work: Path, budget: Budget) -> Iterator[Case]:
    """The trained example: its scores mean something, and 16 bits move them as they move a real model's.

    After it, random weights of what the example lacks.
    """
    for dtype in DTYPES:
        yield _case(work, f"armorm-tiny, {dtype}", EXAMPLE, dtype)
    for kind in RANDOM_MODELS:
        checkpoint = work / f"random-{kind.replace(' ', '-')}"
        if not checkpoint.exists():
            run_json("gpu.small_models", [kind, str(checkpoint)], budget)
        yield _case(work, f"{kind}, random, bf16", checkpoint, "bf16")


def _case(work: Path, name: str, checkpoint: Path, dtype: Dtype) -> Case:
    bundle = work / f"{checkpoint.name}.{dtype}"
    if not bundle.exists():
        export(str(checkpoint), bundle, ExportOptions(dtype=dtype))
    return Case(name=name, bundle=bundle, checkpoint=checkpoint)


def _verified(case: Case, engine: Engine, plan: Plan, budget: Budget) -> Record:
    arguments = ["verify", str(case.bundle), "--checkpoint", str(case.checkpoint), "--device", engine.device, "--json"]
    arguments += ["--reference-device", plan.torch_device, "--conversations", str(plan.conversations)]
    arguments += ["--data", str(case.data)] if case.data else []
    arguments += ["--dialect", engine.dialect] if engine.dialect else []
    record: Record = {"case": case.name, "engine": engine.name}
    try:
        report = run_json("rmexport", arguments, budget, accept=(0, 1))
    except (ChildFailed, ValueError) as error:
        return record | {"passed": False, "message": str(error)}
    kept = ("passed", "backend", "precision", "dtype", "sequences", "checks", "versions")
    return record | {name: report[name] for name in kept}


def _compiled(case: Case, plan: Plan, budget: Budget) -> Record:
    """TensorRT, or TensorRT-RTX where it alone is installed. `informative`: not every GPU is one of RTX's."""
    try:
        run_json("gpu.compile_engine", [str(case.bundle)], budget)
    except (ChildFailed, ValueError) as error:
        return {
            "case": case.name, "engine": TENSORRT.name, "passed": False, "message": str(error), "informative": True
        }  # fmt: skip
    return _verified(case, TENSORRT, plan, budget) | {"informative": True}
