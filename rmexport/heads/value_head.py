"""Value heads on a causal LM, `v_head.summary`: one linear layer, or several with ReLU between.

Sources: huggingface/trl's ValueHead (AutoModelForCausalLMWithValueHead; LLaMA-Factory saves it as a side file),
Ray2333's GRM "sftreg" models (rewardbench/models/grm.py in allenai/reward-bench, summary.0/2/...), and
Skywork-o1-Open-PRM (search-and-learn, src/sal/models/skywork_o1_prm/prm_model.py: sigmoid, at every step's end).
The layers are what the tensors say: `vhead_*` fields of a config.json can be left over from another head.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from rmexport.errors import CheckpointError
from rmexport.graph.feed_forward import FeedForward, read_feed_forward
from rmexport.graph.head_writer import HeadWriter
from rmexport.heads import Head, HeadFacts, ScoringHead
from rmruntime.bundle.manifest import Output

LAYER = r"(v_head\.summary(?:\.\d+)?)\.weight"


@dataclass(frozen=True, kw_only=True)
class ValueHead(Head):
    """`value` ends in one output; `sigmoid` makes it a probability."""

    value: FeedForward
    sigmoid: bool

    def build(self, h: HeadWriter, hidden: ir.Value) -> None:
        """score [P]; with a sigmoid also logit [P], the value itself."""
        value = self.value.build_value(h, hidden)
        h.w.output("score", h.w.op("Sigmoid", value) if self.sigmoid else value, ["P"])
        if self.sigmoid:
            h.w.output("logit", value, ["P"])

    def reference(self, hidden: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[str, Any]:
        """ValueHead.forward without dropout, on torch tensors; the dtype is the caller's."""
        value = self.value.reference(hidden["score"], weights)[:, 0]
        return {"score": value.sigmoid(), "logit": value} if self.sigmoid else {"score": value}


def claims(facts: HeadFacts) -> tuple[str, ...]:
    """All of `v_head.summary`."""
    if not _layer_names(facts):
        return ()
    return tuple(name for name in facts.tensors if name.startswith("v_head.summary"))


def read(facts: HeadFacts) -> ValueHead:
    """The layers, as the tensors have them; a recipe tells whether steps are scored, and whether as a probability.

    Raises CheckpointError where the last layer has more than one output.
    """
    if not (names := _layer_names(facts)):
        facts.tensor("v_head.summary.weight")
    value = read_feed_forward(facts.tensors, names, facts.hidden_size)
    if value.layers[-1].outputs != 1:
        raise CheckpointError(
            f"{names[-1]}.weight has {value.layers[-1].outputs} rows, expected 1, as of a value head; choose "
            "another head with --recipe"
        )
    sigmoid = facts.recipe is not None and facts.recipe.activation == "sigmoid"
    outputs = (Output(name="score", per=facts.unit), *((Output(name="logit", per=facts.unit),) if sigmoid else ()))
    unasked = "the value at the last token is the score; a process reward model needs --recipe skywork-o1-prm or a file"
    return ValueHead(
        positions={"score": facts.score_rule("last")},
        outputs=outputs,
        value=value,
        sigmoid=sigmoid,
        ignored=tuple(name for name in facts.tensors if name.endswith(facts.lm_head)),
        notes=() if facts.recipe or len(names) > 1 else (unasked,),
    )


def _layer_names(facts: HeadFacts) -> list[str]:
    """The layers' names without `.weight`, in order: `v_head.summary`, or `v_head.summary.0`, `.2`, ..."""
    names = [found[1] for name in facts.tensors if (found := re.fullmatch(LAYER, name))]
    return sorted(names, key=lambda name: int(name.rpartition(".")[2]) if name[-1].isdigit() else -1)


HEAD = ScoringHead(
    name="value_head",
    recipe_fields=("position", "activation"),
    claims=claims,
    read=read,
)
