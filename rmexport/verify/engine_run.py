"""What engines compute for the conversations: the raw outputs of the bundle, and of the unquantized one beside it."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np

from rmexport.errors import VerificationError
from rmexport.output.progress import Watcher
from rmexport.verify.baseline_bundle import BaselineExport, unquantized_bundle
from rmexport.verify.options import VerifyOptions
from rmruntime import DeviceLimit, RewardModel, ScoreOptions
from rmruntime.options import EngineOptions
from rmruntime.scores import Arrays, Outcome
from rmruntime.sequences import TokenSequence


@dataclass(frozen=True, kw_only=True)
class EngineRun:
    """Outputs by name, [P] or [P, labels] with P the scored positions of all sequences, and the engine that ran.

    `reason` says why it was chosen, as a clause that follows "because"; `can_cache` whether it can run with a prefix
    cache.
    """

    outputs: Arrays
    backend: str
    precision: str
    reason: str
    can_cache: bool = False


def run_engine(
    model: RewardModel, sequences: Sequence[TokenSequence], options: VerifyOptions, watcher: Watcher
) -> EngineRun:
    """Compute all sequences; there is at least one.

    Raises VerificationError for one that the device cannot compute, and BackendError when the engine fails.
    """
    score_options = ScoreOptions(max_batch_tokens=options.max_batch_tokens)
    with (
        watcher.bars("engine", len(sequences), "seq") as advance,
        closing(model.stream_outputs(sequences, score_options, advance)) as outcomes,
    ):
        parts = [_arrays(outcome) for outcome in outcomes]
    return EngineRun(
        outputs={name: np.concatenate([part[name] for part in parts]) for name in parts[0]},
        backend=model.backend,
        precision=model.precision,
        reason=model.backend_reason,
        can_cache=model.can_cache_prefixes,
    )


def same_engine(backend: str, options: EngineOptions) -> EngineOptions:
    """The options that load the engine called `backend`, which they chose, with the number that the user gave.

    >>> same_engine("ort_cuda", EngineOptions(device="cuda:1")).device
    'ort_cuda:1'
    """
    return replace(options, device=backend + "".join(options.device.partition(":")[1:]))


def run_baseline(
    quantized: BaselineExport,
    backend: str,
    sequences: Sequence[TokenSequence],
    options: VerifyOptions,
    watcher: Watcher,
) -> EngineRun:
    """Compute all sequences without quantization, on the engine called `backend`, which ran the quantized bundle.

    Raises as `run_engine` and `unquantized_bundle` do.
    """
    with (
        unquantized_bundle(quantized, options.against) as folder,
        RewardModel.load(folder, same_engine(backend, options.engine).unstaged()) as model,
    ):
        return run_engine(model, sequences, options, watcher)


def _arrays(outcome: Outcome) -> Arrays:
    if isinstance(outcome, DeviceLimit):
        raise VerificationError(str(outcome)) from outcome
    return outcome
