"""PairRM: an encoder that reads a prompt and two candidates at once and compares them; not supported.

Source: llm-blender/PairRM-hf (`DebertaV2PairRM`; a copy is in reward-bench, rewardbench/models/pairrm.py): a tanh MLP
on the states of three prefix tokens, source with each candidate; left minus right, less that of the swapped order.
"""

from typing import NoReturn

from rmexport.errors import UnsupportedModel
from rmexport.heads import Candidate, RefusedHead


def claims(candidate: Candidate) -> tuple[str, ...]:
    """The MLP `head_layer`."""
    return tuple(name for name in candidate.tensors if name.startswith("head_layer."))


def refuse(candidate: Candidate) -> NoReturn:
    """Raises UnsupportedModel."""
    raise UnsupportedModel(
        "a PairRM (tensors head_layer.*): it reads the prompt and two candidates as one text of three segments, "
        "each with special tokens of its own, from both sides (an encoder), and gives the difference of the two; a "
        "candidate alone has no score, and no layout of this format writes its input"
    )


HEAD = RefusedHead(
    name="pair_ranker",
    claims=claims,
    refuse=refuse,
)
