"""OpenRLHF's reward models and critics: one linear layer on the last token, normalised where it is asked for.

Source: OpenRLHF/OpenRLHF, openrlhf/models/model.py (`get_llm_for_sequence_regression`): the layer's name is
`value_head_prefix`, it has no bias and reads the last attended token; (reward - mean) / std with the numbers of
config.json is what `normalize_reward` gives. Its checkpoints pad with eos, so that the pooling of transformers'
`*ForSequenceClassification`, which has the same tensor when the prefix is "score", would read another token.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from rmexport.checkpoint.config_fields import DEVIATION, STATISTIC, flag, number, optional_text
from rmexport.errors import CheckpointError
from rmexport.graph.feed_forward import FeedForward
from rmexport.graph.head_writer import HeadWriter
from rmexport.heads import Head, HeadFacts, ScoringHead

PREFIX, DEFAULT_PREFIX = "value_head_prefix", "value_head"
FOREIGN_CLASS = "LlamaRewardModel"  # UltraRM's and Ziya's, never OpenRLHF's


@dataclass(frozen=True, kw_only=True)
class NormalizedValue(Head):
    """A linear layer whose output is normalised with `mean` and `std`, which are 0 and 1 for the raw reward."""

    value: FeedForward
    mean: float
    std: float

    def build(self, h: HeadWriter, hidden: ir.Value) -> None:
        """score [P]."""
        values = self.value.build_value(h, hidden)
        if (self.mean, self.std) != (0.0, 1.0):
            values = h.w.op("Sub", values, h.w.constant("reward_mean", self.mean, "fp32"))
            values = h.w.op("Div", values, h.w.constant("reward_std", self.std, "fp32"))
        h.w.output("score", values, ["P"])

    def reference(self, hidden: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[str, Any]:
        """RewardModel.forward in evaluation mode, on torch tensors; the dtype is the caller's."""
        values = self.value.reference(hidden["score"], weights)[:, 0]
        return {"score": (values - self.mean) / self.std}


def claims(facts: HeadFacts) -> tuple[str, ...]:
    """The layer that config.json names, or a `value_head` of one row where it names none."""
    weight = facts.tensors.get(f"{_layer(facts)}.weight")
    if weight is None or weight.shape[0] != 1 or facts.architecture == FOREIGN_CLASS:
        return ()
    named = (f"{PREFIX} in config.json",) if facts.config.get(PREFIX) else ()
    bias = (f"{_layer(facts)}.bias",) if f"{_layer(facts)}.bias" in facts.tensors else ()
    return (f"{_layer(facts)}.weight", *bias, *named)


def read(facts: HeadFacts) -> NormalizedValue:
    """One value at the last token. Raises CheckpointError where config.json lacks the mean and std to normalise it."""
    facts.tensor(f"{_layer(facts)}.weight")
    normalize = flag(facts.config, "normalize_reward") or (facts.recipe is not None and facts.recipe.normalize)
    mean, std = _statistics(facts) if normalize else (0.0, 1.0)
    return NormalizedValue(
        positions={"score": facts.score_rule("last")},
        value=facts.linear_value(_layer(facts)),
        mean=mean,
        std=std,
        ignored=(facts.lm_head,),
        notes=_notes(facts, normalize=normalize),
    )


def _layer(facts: HeadFacts) -> str:
    return optional_text(facts.config, PREFIX) or DEFAULT_PREFIX


def _statistics(facts: HeadFacts) -> tuple[float, float]:
    missing = [name for name in ("mean", "std") if name not in facts.config]
    if missing:
        raise CheckpointError(
            f"the reward must be normalised, but config.json has no {' and no '.join(missing)}; add what OpenRLHF "
            "measured in training, or export without normalisation"
        )
    mean = number(facts.config, "mean", STATISTIC, default=0.0)
    return mean, number(facts.config, "std", DEVIATION, default=1.0)


def _notes(facts: HeadFacts, *, normalize: bool) -> tuple[str, ...]:
    if normalize or "mean" not in facts.config:
        return ()
    return ("config.json has a mean and std of rewards, the score is raw (--recipe openrlhf-normalized applies them)",)


HEAD = ScoringHead(
    name="openrlhf",
    recipe_fields=("position", "normalize"),
    claims=claims,
    read=read,
)
