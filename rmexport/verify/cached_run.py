"""Whether scores are the same after cached prefixes: some conversations, computed from the middle on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmexport.verify.engine_run import EngineRun, same_engine
from rmexport.verify.options import VerifyOptions
from rmexport.verify.parity import Check
from rmruntime import RewardModel, ScoreOptions
from rmruntime.backends import backends
from rmruntime.scores import Arrays, Outcome
from rmruntime.sequences import TokenSequence

CONVERSATIONS = 16  # spread over all: each is computed about once more
# On GPUs products of other sizes may be summed in another order, so that scores are the same up to rounding: as rule 1
# of the gate has it for fp32, eight units in the last place for 16 bits. No GPU has shown yet how much it is.
ROUNDING = {"fp32": 1e-4, "fp16": 2**-8, "bf16": 2**-5}


@dataclass(frozen=True, kw_only=True)
class CachedRun:
    """Of `conversations` whose first half was cached, how many had other scores than computed whole.

    Scores are others by more than `rounding`, as a share of those that exceed 1; 0: bitwise.
    """

    conversations: int
    different: int
    rounding: float = 0.0


def run_cached(
    bundle: str | Path, engine: EngineRun, sequences: Sequence[TokenSequence], options: VerifyOptions
) -> CachedRun | None:
    """Compare with what `engine` computed for the same sequences; None where there is no prefix cache.

    Raises BackendError when the engine fails.
    """
    if not engine.can_cache or options.engine.stages_in_turn or options.engine.devices[1:]:
        return None  # before anything is loaded again
    whole = _outcomes(engine.outputs, sequences)
    chosen = np.unique(np.linspace(0, len(sequences) - 1, CONVERSATIONS).astype(int)).tolist()
    score_options = ScoreOptions(max_batch_tokens=options.max_batch_tokens)
    with RewardModel.load(bundle, replace(same_engine(engine.backend, options.engine), prefix_cache="auto")) as model:
        if not model.has_prefix_cache:
            return None
        halves = [half for i in chosen if (half := _first_half(sequences[i])) is not None]
        list(model.stream_outputs(halves, score_options))
        found = list(model.stream_outputs([sequences[i] for i in chosen], score_options))
    rounding = 0.0 if "cpu" in backends()[engine.backend].DEVICES else ROUNDING[engine.precision]
    different = sum(not _same(whole[i], one, rounding) for i, one in zip(chosen, found, strict=True))
    return CachedRun(conversations=len(chosen), different=different, rounding=rounding)


def cached_checks(found: CachedRun | None) -> list[Check]:
    """That scores are the same: told where some are not.

    >>> cached_checks(CachedRun(conversations=16, different=0))
    []
    >>> [check.measured for check in cached_checks(CachedRun(conversations=16, different=2))]
    ['2 of 16 conversations differ']
    """
    if found is None or not found.different:
        return []
    measured = f"{found.different} of {found.conversations} conversations differ"
    required = f"the same up to {found.rounding:.0e}" if found.rounding else "bitwise the same"
    return [Check(name="scores after cached prefixes", measured=measured, required=required, passed=False)]


def _first_half(sequence: TokenSequence) -> TokenSequence | None:
    """Read at its last token; None for a single token."""
    middle = len(sequence.ids) // 2
    reads = dict.fromkeys(sequence.reads, np.array([middle - 1]))
    return TokenSequence(ids=sequence.ids[:middle], reads=reads) if middle else None


def _outcomes(outputs: Arrays, sequences: Sequence[TokenSequence]) -> list[Arrays]:
    """What belongs to each sequence of outputs [P] or [P, labels] over all."""
    ends = np.cumsum([s.position_count for s in sequences])
    return [
        {name: values[end - s.position_count : end] for name, values in outputs.items()}
        for s, end in zip(sequences, ends.tolist(), strict=True)
    ]


def _same(expected: Arrays, found: Outcome, rounding: float) -> bool:
    return isinstance(found, dict) and all(_close(values, found[name], rounding) for name, values in expected.items())


def _close(expected: NDArray[Any], found: NDArray[Any], rounding: float) -> bool:
    if not rounding:
        return np.array_equal(expected, found, equal_nan=True)
    allowed = rounding * np.maximum(1.0, np.abs(expected))
    return bool(np.all((np.abs(found - expected) <= allowed) | (np.isnan(found) & np.isnan(expected))))
