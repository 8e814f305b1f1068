"""POLAR: InternLM2's reward class, but trained to compare an answer with a reference answer; not supported.

Source: InternLM/POLAR, README.md ("Data format": prompt, reference, output).
"""

from typing import NoReturn

from rmexport.checkpoint.config_fields import ROPE_BASE, number, section
from rmexport.errors import UnsupportedModel
from rmexport.heads import Candidate, RefusedHead

WEIGHT, ARCHITECTURE = "v_head.weight", "InternLM2ForRewardModel"
REWARD_ROPE_THETA = 1e6  # of internlm2-reward; POLAR-7B's base has 5e7


def claims(candidate: Candidate) -> tuple[str, ...]:
    """InternLM2's reward class with a longer rope base than its reward models have."""
    rope = section(candidate.config, "rope_parameters") or candidate.config  # transformers 5 moved it
    if WEIGHT not in candidate.tensors or candidate.architecture != ARCHITECTURE:
        return ()
    theta = number(rope, "rope_theta", ROPE_BASE, default=REWARD_ROPE_THETA)
    if theta <= REWARD_ROPE_THETA:
        return ()
    return (WEIGHT, f"rope_theta {theta:g} in config.json")


def refuse(candidate: Candidate) -> NoReturn:
    """Raises UnsupportedModel."""
    raise UnsupportedModel(
        "this is a POLAR model (InternLM2ForRewardModel, as internlm2-reward, but with POLAR's rope_theta or name): it "
        "scores an answer by how well it agrees with a reference answer to the same prompt, and records carry no "
        "reference. If it is a plain InternLM2 reward model, say so with --recipe internlm2-reward"
    )


HEAD = RefusedHead(
    name="polar",
    claims=claims,
    refuse=refuse,
)
