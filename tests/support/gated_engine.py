"""An engine whose passes wait until a test lets them go, so that what happens during a pass is the test's choice."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rmruntime import RewardModel
from rmruntime.backends import load_backend
from rmruntime.backends.base import Backend, Feeds, Outputs
from rmruntime.bundle import Bundle
from rmruntime.bundle.manifest import Graph
from rmruntime.options import EngineOptions

PATIENCE = 60  # seconds until a test gives up waiting for what never comes


class GatedEngine:
    """`passes` are the input ids of each pass begun; one that is in `faults`, by its number, raises that error."""

    def __init__(self, engine: Backend) -> None:
        self._engine = engine
        self.name, self.precision, self.batch_tokens = engine.name, engine.precision, engine.batch_tokens
        self.graph: Graph = engine.graph
        self.passes: list[list[int]] = []
        self.faults: dict[int, BaseException] = {}
        self._begun, self._permits = threading.Semaphore(0), threading.Semaphore(0)

    def run(self, feeds: Feeds) -> Outputs:
        number = len(self.passes)
        self.passes.append(feeds["input_ids"].ravel().tolist())
        self._begun.release()
        assert self._permits.acquire(timeout=PATIENCE), "no test let this pass go"
        if number in self.faults:
            raise self.faults[number]
        return self._engine.run(feeds)

    def close(self) -> None:
        self._engine.close()

    def permit(self, passes: int = 1) -> None:
        """Let N passes go, those that wait and those that come."""
        self._permits.release(passes)

    def wait_for_pass(self) -> None:
        """Until one more pass has begun."""
        assert self._begun.acquire(timeout=PATIENCE), "no pass began"


def gated_model(bundle: Path, **options: Any) -> tuple[RewardModel, GatedEngine]:
    """A model on ort-cpu, gated."""
    opened = Bundle.open(bundle)
    engine = GatedEngine(load_backend(opened, EngineOptions(device="ort-cpu")))
    return RewardModel(opened, engine, **options), engine


def runtime_threads() -> set[threading.Thread]:
    """Those of all models of this process, also of those that other files' fixtures hold."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("rmruntime-")}


def wait_until(condition: Callable[[], object]) -> None:
    """For as long as it takes, up to PATIENCE."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.001)
