"""Results: scores, and how the raw outputs of the engine become scores by the manifest's output descriptions."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmruntime.bundle.manifest import Manifest
from rmruntime.errors import DeviceLimit, InputError, NonFiniteScore
from rmruntime.options import Aggregate, ScoreOptions
from rmruntime.records import Request
from rmruntime.sequences import TokenSequence
from rmruntime.text.flags import zero_flags

Arrays = Mapping[str, NDArray[np.float32]]
Outcome = Arrays | DeviceLimit  # of one sequence: its rows of the outputs, or why the device did not compute them


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One judged conversation.

    `value` is the reward: raw unless the model's own definition has an activation, and the probability of being the
    better one where a model compares answers; None for a classifier of several labels none of which was chosen as the
    score. `rewards` and `gating` are by objective, in the checkpoint's order (rewards before any transform matrix).
    `logit` is the log-odds where value is a probability. `steps` and `step_logits` are per step; value is then their
    aggregate. `tokens` counts this conversation's tokens, `truncated` those that were cut from it; `flags` say what was
    odd about the input.
    """

    value: float | None
    rewards: Mapping[str, float] | None = None
    gating: Mapping[str, float] | None = None
    logit: float | None = None
    steps: tuple[float, ...] | None = None
    step_logits: tuple[float, ...] | None = None
    tokens: int = 0
    truncated: int = 0
    flags: tuple[str, ...] = ()


Scored = Score | list[Score]  # of one request: a list for pairs and candidates


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedDocument:
    """A document in the order of its score.

    `index` is its place among the documents as given, `score` the number that decided, `document` itself as given:
    text, or an object with its text. `details` has what else there is, such as `truncated` and `flags`.
    """

    index: int
    score: float
    document: str | Mapping[str, Any]
    details: Score


def ranked(
    documents: Sequence[str | Mapping[str, Any]], scores: Sequence[Score], top: int | None = None
) -> list[RankedDocument]:
    """The documents by their scores, the best first, those of equal scores in the order given; the first `top` of them.

    Raises InputError where the model's outputs hold no single score to rank by.

    >>> [found.index for found in ranked(["a", "b", "c"], [Score(value=0.5), Score(value=2.0), Score(value=0.5)])]
    [1, 0, 2]
    """
    if any(score.value is None for score in scores):
        raise InputError(
            "found no single score, only rewards, so there is nothing to rank by; export with --score-label"
        )
    found = [
        RankedDocument(index=index, score=score.value or 0.0, document=document, details=score)
        for index, (document, score) in enumerate(zip(documents, scores, strict=True))
    ]
    return sorted(found, key=lambda one: -one.score)[:top]


@dataclass(frozen=True, kw_only=True)
class OutputProcessor:
    """Makes the result of a request from the raw outputs of its sequences.

    `precision` is the arithmetic that ran. `join` makes the scores of a request's conversations from those of its
    sequences, as the layout of the bundle does.
    """

    manifest: Manifest
    precision: str
    join: Callable[[Request, list[Score]], list[Score]]

    def result(
        self,
        request: Request | InputError,
        computed: Sequence[tuple[TokenSequence, Outcome]] | InputError,
        options: ScoreOptions,
    ) -> Scored | InputError:
        """The scores; or the error of the request, of its sequences, or of an output that is not finite.

        `computed` are the sequences of the request in order, each with its rows of the outputs: [P] or [P, labels].
        """
        if isinstance(request, InputError):
            return request
        if isinstance(computed, InputError):
            return computed
        scores: list[Score] = []
        for sequence, outcome in computed:
            if isinstance(outcome, DeviceLimit):
                return outcome
            try:
                pooled = _pooled(self.manifest, outcome)
                scores.append(score_from_outputs(self.manifest, sequence, pooled, options.aggregate, self.precision))
            except NonFiniteScore as error:
                return error
        return _joined(request, self.join(request, scores), options.aggregate)


def _pooled(manifest: Manifest, outputs: Arrays) -> Arrays:
    """The outputs with the mean over scored positions, [1] or [1, labels], of those that have one.

    Summed exactly and rounded once, so that it depends on nothing but the values.
    """
    means = {output.name for output in manifest.outputs if output.mean}
    return {name: _mean(values) if name in means else values for name, values in outputs.items()}


def _mean(values: NDArray[np.float32]) -> NDArray[np.float32]:
    columns = values.reshape(len(values), -1).T.tolist()
    means = [math.fsum(column) / len(column) if all(map(math.isfinite, column)) else math.nan for column in columns]
    return np.array(means, np.float32).reshape(1, *values.shape[1:])


def _joined(request: Request, scores: list[Score], aggregate: Aggregate) -> Scored:
    """One score for a single conversation and for steps, else all of them."""
    if request.kind == "single":
        return scores[0]
    if request.kind == "steps":
        return scores[0] if scores[0].steps is not None else score_from_partials(scores, aggregate)
    return scores


def score_from_outputs(
    manifest: Manifest, sequence: TokenSequence, outputs: Arrays, aggregate: Aggregate, precision: str | None = None
) -> Score:
    """The score of one sequence from its rows of the outputs: [P] or [P, labels] each, P its number of positions.

    `precision` is the arithmetic that ran, None for the bundle's own. Raises NonFiniteScore, an InputError, when a
    value is NaN or infinite.

    >>> from types import SimpleNamespace
    >>> manifest = SimpleNamespace(
    ...     dtype="fp32", score="score", outputs=[SimpleNamespace(name="score", per="sequence", labels=None)]
    ... )
    >>> sequence = TokenSequence(ids=np.array([5, 7]), reads={"score": np.array([1])})
    >>> score_from_outputs(manifest, sequence, {"score": np.array([0.5], np.float32)}, "mean")
    Score(value=0.5, ..., tokens=2, truncated=0, flags=())
    """
    for name, values in outputs.items():
        if not all(map(math.isfinite, flat := values.ravel().tolist())):
            wrong = next(value for value in flat if not math.isfinite(value))
            where = f"{sequence.where}: " if sequence.where else ""
            advice = _advice(manifest.dtype, precision or manifest.dtype)
            raise NonFiniteScore(f"{where}output {name!r} is {wrong}, expected a finite number: {advice}")
    labelled = {o.name: o.labels for o in manifest.outputs if o.labels is not None}
    named = {name: dict(zip(labels, outputs[name][0].tolist(), strict=True)) for name, labels in labelled.items()}
    value = outputs[manifest.score].tolist() if manifest.score else None
    logits = outputs["logit"].tolist() if "logit" in outputs else None
    by_step = any(o.per == "step" for o in manifest.outputs)
    return Score(
        value=None if value is None else aggregated(value, aggregate) if by_step else value[0],
        rewards=named.get("rewards"),
        gating=named.get("gating"),
        logit=None if logits is None or by_step else logits[0],
        steps=tuple(value) if by_step and value is not None else None,
        step_logits=tuple(logits) if by_step and logits is not None else None,
        tokens=len(sequence.ids),
        truncated=sequence.truncated,
        flags=(*sequence.flags, *sequence.doubts, *zero_flags(_raw(outputs, manifest.score))),
    )


def _raw(outputs: Arrays, score: str | None) -> list[float]:
    """The head's value before a probability is made of it; of a classifier without a score the largest label's."""
    if score is None:
        return [float(np.abs(outputs["rewards"]).max())] if "rewards" in outputs else []
    raw: list[float] = outputs["logit" if "logit" in outputs else score].tolist()
    return raw


def _advice(dtype: str, precision: str) -> str:
    """What to do about a value that is not finite, by the dtype of the bundle and of the arithmetic that ran."""
    if precision == dtype == "fp16":
        return (
            "the arithmetic overflowed, fp16 holds no number beyond 65504; export with --dtype bf16 or fp32, or run "
            "with --precision fp32"
        )
    if precision not in ("fp32", dtype):
        return f"the arithmetic overflowed in {precision}, and the bundle is {dtype}; run with --precision fp32"
    return (
        f"this record's activations overflowed in {precision}, beyond which no other dtype reaches (rmexport verify "
        "with the record as --data tells where), or the weights hold NaN or Inf (rmexport inspect CHECKPOINT --check "
        "full tells); score the others without it"
    )


def score_from_partials(partials: Sequence[Score], aggregate: Aggregate) -> Score:
    """Steps scored by a sequence head: each partial answer as if finished. Detail fields are the whole answer's.

    >>> score_from_partials([Score(value=1.0), Score(value=0.0)], "mean").value
    0.5
    """
    whole = partials[-1]
    values = [p.value for p in partials if p.value is not None]
    logits = [p.logit for p in partials if p.logit is not None]
    return Score(
        value=aggregated(values, aggregate) if values else None,
        rewards=whole.rewards,
        gating=whole.gating,
        steps=tuple(values) or None,
        step_logits=tuple(logits) or None,
        tokens=whole.tokens,
        truncated=max(p.truncated for p in partials),
        flags=tuple(dict.fromkeys(flag for p in partials for flag in p.flags)),
    )


def aggregated(values: Sequence[float], aggregate: Aggregate) -> float:
    """One number from the steps' scores, of which there is at least one.

    >>> [aggregated([0.5, 0.25], how) for how in ("mean", "prod", "min", "last")]
    [0.375, 0.125, 0.25, 0.25]
    """
    if aggregate == "mean":
        return math.fsum(values) / len(values)
    if aggregate == "prod":
        return math.prod(values)
    return min(values) if aggregate == "min" else values[-1]
