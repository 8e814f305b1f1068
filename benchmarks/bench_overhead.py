"""Median time that one conversation of about 64 tokens, given as text, spends outside the engine's run."""

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench_checkpoints import EXAMPLE
from machine import banner

from rmexport import ExportOptions, export
from rmruntime import RewardModel
from rmruntime.backends import load_backend
from rmruntime.bundle import Bundle
from rmruntime.options import EngineOptions

WORDS = "The heron nests by the weir and the river runs quietly past the mill in the morning".split()


class Timed:
    """A backend whose passes are timed."""

    def __init__(self, backend: Any) -> None:
        self._backend, self.seconds = backend, 0.0
        self.name, self.precision, self.graph = backend.name, backend.precision, backend.graph
        self.batch_tokens = backend.batch_tokens

    def run(self, feeds: Mapping[str, Any]) -> Mapping[str, Any]:
        begin = time.perf_counter()
        try:
            outputs: Mapping[str, Any] = self._backend.run(feeds)
            return outputs
        finally:
            self.seconds = time.perf_counter() - begin

    def close(self) -> None:
        self._backend.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=1000)
    arguments = parser.parse_args()
    print(banner())
    with tempfile.TemporaryDirectory() as work:
        export(str(EXAMPLE), Path(work) / "bundle", ExportOptions(dtype="bf16"))
        bundle = Bundle.open(Path(work) / "bundle")
        backend = Timed(load_backend(bundle, EngineOptions(device=arguments.device)))
        measure(RewardModel(bundle, backend), backend, arguments.repeats)


def measure(model: RewardModel, backend: Timed, repeats: int) -> None:
    record = {"prompt": "Where does the heron nest? Tell me.", "response": " ".join((WORDS * 2)[:21])}
    outside, engine = [], []
    for _ in range(repeats + 100):
        begin = time.perf_counter()
        [score] = model.score([record])
        outside.append(time.perf_counter() - begin - backend.seconds)
        engine.append(backend.seconds)
    tokens = getattr(score, "tokens", "?")
    print(
        f"{backend.name} in {backend.precision}, {tokens} tokens: outside the engine "
        f"{1e3 * statistics.median(outside[100:]):.3f} ms, engine {1e3 * statistics.median(engine[100:]):.3f} ms"
    )


if __name__ == "__main__":
    main()
