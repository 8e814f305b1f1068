"""Qwen2.5-Math-PRM: two linear layers with a ReLU between, `score.0` and `score.2`, judge every step at its tag.

Source: Qwen2ForProcessRewardModel (vLLM's qwen2_rm.py; huggingface/search-and-learn, src/sal/models/reward_models.py).
A step's reward is softmax(logits)[1] = sigmoid(logits[1] - logits[0]). The published script masks probabilities and
drops those that are exactly 0, which shifts all that follow; here each is read at its own place.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from rmexport.graph.feed_forward import FeedForward, read_feed_forward
from rmexport.graph.head_writer import HeadWriter
from rmexport.heads import Head, HeadFacts, ScoringHead
from rmruntime.bundle.manifest import Output

LAYERS = ("score.0", "score.2")


@dataclass(frozen=True, kw_only=True)
class ProcessReward(Head):
    """`layers` end in two logits, of a bad and of a good step."""

    layers: FeedForward

    def build(self, h: HeadWriter, hidden: ir.Value) -> None:
        """score [P], the probability of a good step, and logit [P], its log-odds."""
        logits = self.layers.build(h, h.read(hidden, "score"))
        bad, good = (h.w.op("Gather", logits, h.w.constant(f"row_{i}", i), axis=1) for i in range(2))
        logit = h.w.op("Sub", good, bad)
        h.w.output("score", h.w.op("Sigmoid", logit), ["P"])
        h.w.output("logit", logit, ["P"])

    def reference(self, hidden: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[str, Any]:
        """The published forward and its softmax, on torch tensors; the dtype is the caller's."""
        logits = self.layers.reference(hidden["score"], weights)
        return {"score": logits.softmax(-1)[:, 1], "logit": logits[:, 1] - logits[:, 0]}


def claims(facts: HeadFacts) -> tuple[str, ...]:
    """Both layers, of which the second has two rows: bad and good."""
    last = facts.tensors.get(f"{LAYERS[1]}.weight")
    if f"{LAYERS[0]}.weight" not in facts.tensors or last is None or last.shape[:1] != (2,):
        return ()
    return tuple(name for name in facts.tensors if name.startswith("score."))


def read(facts: HeadFacts) -> ProcessReward:
    """The layers; the recipe tells where steps end. The unused language model's head is left out.

    Raises CheckpointError for a tag of several tokens, because its last one may also occur elsewhere.
    """
    if facts.recipe and facts.recipe.layout == "tagged_steps":
        facts.text.single_token(facts.recipe.step_tag or "")
    return ProcessReward(
        positions={"score": facts.score_rule("last")},
        outputs=(Output(name="score", per=facts.unit), Output(name="logit", per=facts.unit)),
        layers=read_feed_forward(facts.tensors, LAYERS, facts.hidden_size),
        ignored=(facts.lm_head,),
    )


HEAD = ScoringHead(
    name="process_reward",
    default_recipe="qwen2.5-math-prm",
    claims=claims,
    read=read,
)
