"""The numbers of one scored conversation as classification servers give them, raw or activated as the client says."""

import math
from collections.abc import Sequence

from rmruntime.errors import InputError
from rmruntime.scores import Score
from rmruntime.serve.served_model import ModelFacts


def label_values(score: Score, facts: ModelFacts, activation: bool | None = None) -> list[float]:
    """One number where the model has a score, else one per label in the order of `facts.labels`.

    `activation` None gives what `RewardModel.score` does: raw, unless the model's own definition has an activation.
    True gives probabilities: the sigmoid of a lone score, the softmax of labels. False gives the raw number in any
    case, which is the log-odds where the score is a probability.
    """
    if score.value is None:
        raw = [score.rewards[label] for label in facts.labels] if score.rewards else []
        return softmax(raw) if activation else raw
    return [score_value(score, activation)]


def score_value(score: Score, activation: bool | None = None) -> float:
    """The score alone, as `label_values` treats it. Raises InputError for a model that has labels only.

    >>> score_value(Score(value=0.0), activation=True), score_value(Score(value=0.5, logit=0.0), activation=True)
    (0.5, 0.5)
    >>> score_value(Score(value=0.5, logit=0.0), activation=False)
    0.0
    """
    if score.value is None:
        raise InputError("this model has several labels and no single score; export it with --score-label")
    if activation is None:
        return score.value
    if score.logit is not None:
        return score.value if activation else score.logit
    return sigmoid(score.value) if activation else score.value


def step_values(score: Score, activation: bool | None = None) -> list[float]:
    """The numbers of the steps, none without any; `activation` as in `label_values`.

    >>> step_values(Score(value=0.5, steps=(0.5,), step_logits=(0.0,)), activation=False)
    [0.0]
    >>> step_values(Score(value=0.0, steps=(0.0,)), activation=True)
    [0.5]
    """
    values = list(score.steps or ())
    if activation is None:
        return values
    if score.step_logits is not None:
        return values if activation else list(score.step_logits)
    return [sigmoid(value) for value in values] if activation else values


def sigmoid(value: float) -> float:
    """1 / (1 + exp(-x)), which does not overflow.

    >>> sigmoid(0.0), sigmoid(-800.0)
    (0.5, 0.0)
    """
    if value >= 0:
        return 1 / (1 + math.exp(-value))
    power = math.exp(value)
    return power / (1 + power)


def softmax(values: Sequence[float]) -> list[float]:
    """exp(x_i) / sum(exp(x)), which does not overflow.

    >>> softmax([1000.0, 1000.0])
    [0.5, 0.5]
    """
    highest = max(values, default=0.0)
    powers = [math.exp(value - highest) for value in values]
    return [power / math.fsum(powers) for power in powers]
