"""A bundle, run by rmruntime: ours, and with `bundle:PATH` any other; the only contestant that gets whole records."""

import importlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rmexport.bench.worker.scorer import LoadOptions, Request, Scorer, Scores

NAME = "bundle"
PACKAGES = ("rmruntime",)
DISTRIBUTIONS = (
    "rmexport", "rmruntime", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt_rtx",
    "tokenizers", "numpy",
)  # fmt: skip
DTYPES = ("auto",)
HEADS = ()
PARTS = ("template", "tokenize", "plan", "engine", "output")


def load(folder: str, dtype: str, threads: int, options: LoadOptions) -> Scorer:
    """The bundle with the engine that `options.device` names."""
    runtime = importlib.import_module("rmruntime")
    # Another bundle may run in a Python with an older rmruntime that has no precision.
    precision: dict[str, Any] = {} if options.precision == "auto" else {"precision": options.precision}
    model = runtime.RewardModel.load(folder, device=options.device, threads=threads, **precision)
    own = getattr(model, "batch_tokens", 4096)  # an older rmruntime has this number for all engines
    return BundleScorer(model, options.max_batch_tokens or own)


class PartClock:
    """Measures the seconds of each part; the time of a part that runs inside another counts for the inner one only."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        self._inside = threading.local()  # tokenization may run on a thread of its own

    def timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The function `call`, with its time counted for `part`."""

        def timed_call(*args: Any, **kwargs: Any) -> Any:
            before = getattr(self._inside, "seconds", 0.0)
            self._inside.seconds = 0.0
            begin = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                took = time.perf_counter() - begin
                self.seconds[part] += took - self._inside.seconds
                self._inside.seconds = before + took

        return timed_call


class Watched:
    """An object with timers around some of its methods: `parts` maps a method's name to its part."""

    def __init__(self, target: Any, clock: PartClock, parts: Mapping[str, str]) -> None:
        self._target = target
        self._timed = {name: clock.timed(part, getattr(target, name)) for name, part in parts.items()}

    def __getattr__(self, name: str) -> Any:
        return self._timed[name] if name in self._timed else getattr(self._target, name)


class BundleScorer:
    """Scores records, and reports the time of each part."""

    def __init__(self, model: Any, max_batch_tokens: int) -> None:
        self._model, self._clock = model, PartClock()
        self._options = importlib.import_module("rmruntime").ScoreOptions(max_batch_tokens=max_batch_tokens)
        self._parse = importlib.import_module("rmruntime.records").parse_record
        self.precision, self.budget = str(model.precision), max_batch_tokens
        reason = getattr(model, "backend_reason", "")  # an older rmruntime does not say why it took the engine
        why = f", because {reason}" if reason else ""
        self.settings = f"{model.backend}{why}; at most {max_batch_tokens} computed tokens a pass, from records"
        watch(model, self._clock)

    def weight(self, request: Request) -> int:
        return request.tokens

    def score(self, requests: Sequence[Request]) -> Scores:
        self._clock.seconds = dict.fromkeys(PARTS, 0.0)
        begin = time.perf_counter()
        parsed = [self._parse(record) for request in requests for record in request.records]
        run = self._model.run(parsed, self._options)
        values = [value for number, result in enumerate(run.results) for value in values_of(result, number)]
        seconds = time.perf_counter() - begin
        split = dict(self._clock.seconds)
        # Tokenization of later records may have overlapped the engine: then there is nothing left over.
        split["output"] = max(0.0, seconds - sum(split.values()))
        padded = getattr(run.statistics, "padded", None)
        return Scores(values, run.statistics.computed, padded, split)

    def reset(self) -> None:
        pass


def watch(model: Any, clock: PartClock) -> None:
    """Put timers around the parts of a RewardModel, in this process only; the runtime's own code has none."""
    name = "_request_tokenizer" if hasattr(model, "_request_tokenizer") else "_encoder"  # as older versions have it
    encoder = getattr(model, name)
    encoder._tokenizer = Watched(encoder._tokenizer, clock, {"encode_batch": "tokenize"})
    setattr(model, name, Watched(encoder, clock, {"encode": "template", "encode_many": "template"}))
    # Older versions have no loop, and the passes under the second name, or not at all.
    loop = getattr(model, "_loop", model)
    passes = getattr(loop, "_runner", getattr(loop, "_passes", loop))
    for name in ("prepare", "_prepare"):
        if hasattr(passes, name):
            setattr(passes, name, clock.timed("plan", getattr(passes, name)))
    owner = getattr(passes, "_executor", passes)  # nor this one
    owner._backend = Watched(owner._backend, clock, {"run": "engine"})
    for module, name in ((type(loop).__module__, "plan_batches"), (type(passes).__module__, "pack")):
        found = importlib.import_module(module)
        setattr(found, name, clock.timed("plan", getattr(found, name)))


def values_of(result: Any, number: int = 0) -> list[float]:
    """The scores of the record number `number`, one per sequence.

    Raises the record's own error, and ValueError where it has no score.

    >>> from types import SimpleNamespace
    >>> values_of(SimpleNamespace(value=0.5, steps=None)), values_of(SimpleNamespace(value=0.5, steps=(0.25, 0.75)))
    ([0.5], [0.25, 0.75])
    """
    if isinstance(result, Exception):
        raise type(result)(f"record {number}: {result}") from result
    if result.value is None:
        raise ValueError(
            "this bundle defines no single score (its classifier has several labels); export it with --score-label"
        )
    return list(result.steps) if result.steps is not None else [result.value]
