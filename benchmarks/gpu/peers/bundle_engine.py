"""Ours: a bundle through rmruntime, with one graph named; torch must not be in the process, and it looks.

The loaded model is kept between loads, so that several sizes of a pass can be tried.
"""

import importlib
import sys
from collections.abc import Sequence
from typing import Any

from rmexport.bench.worker.scorer import LoadOptions, Request, Scorer, Scores

NAME = "bundle-engine"
PACKAGES = ("rmruntime",)
DISTRIBUTIONS = ("rmruntime", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt_rtx", "numpy", "tokenizers")
DTYPES = ("auto",)
HEADS = ()
_loaded: dict[tuple[str, str, str | None], Any] = {}


def load(folder: str, dtype: str, threads: int, options: LoadOptions) -> Scorer:
    """The bundle on `options.device` with the graph `extra["dialect"]`."""
    dialect = options.extra.get("dialect")
    key = folder, options.device, dialect
    if key not in _loaded:
        runtime = importlib.import_module("rmruntime")
        _loaded[key] = runtime.RewardModel.load(folder, device=options.device, dialect=dialect)
    return EngineScorer(_loaded[key], options.max_batch_tokens or _loaded[key].batch_tokens)


class EngineScorer:
    """Scores from records, as a user would ask."""

    def __init__(self, model: Any, max_batch_tokens: int) -> None:
        self._model = model
        self._options = importlib.import_module("rmruntime").ScoreOptions(max_batch_tokens=max_batch_tokens)
        self._parse = importlib.import_module("rmruntime.records").parse_record
        self.precision, self.budget = str(model.precision), max_batch_tokens
        self.settings = f"{model.backend}, {model.precision}, at most {max_batch_tokens} computed tokens a pass"

    def weight(self, request: Request) -> int:
        return request.tokens

    def score(self, requests: Sequence[Request]) -> Scores:
        parsed = [self._parse(record) for request in requests for record in request.records]
        run = self._model.run(parsed, self._options)
        values = []
        for result in run.results:
            if isinstance(result, Exception):
                raise result
            values.append(float(result.value))
        if "torch" in sys.modules:
            raise RuntimeError("torch was imported by the runtime's process")
        return Scores(values, run.statistics.computed, run.statistics.padded)

    def reset(self) -> None:
        pass
