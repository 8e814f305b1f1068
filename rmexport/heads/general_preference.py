"""GPM, general preference models: an embedding of each answer, compared by a skew-symmetric form; not supported.

Source: general-preference/general-preference-model, rw_model_general_preference.py. With v an answer's embedding of
length 1 and b = softmax(prompt_head(h[prompt end])), the preference of c over r is
sum_k b_k (v_c[2k] v_r[2k+1] - v_c[2k+1] v_r[2k]).
"""

from typing import NoReturn

from rmexport.errors import UnsupportedModel
from rmexport.heads import Candidate, RefusedHead

VALUE, PROMPT = "value_head.weight", "prompt_head.weight"


def claims(candidate: Candidate) -> tuple[str, ...]:
    """A value head of several rows, or a prompt head beside it; one row alone is a plain value head."""
    value = candidate.tensors.get(VALUE)
    if candidate.architecture == "LlamaRewardModel":  # UltraRM's class and Ziya's, which nobody has described
        return ()
    if value is None or (value.shape[0] == 1 and PROMPT not in candidate.tensors):
        return ()
    return tuple(name for name in (VALUE, PROMPT) if name in candidate.tensors)


def refuse(candidate: Candidate) -> NoReturn:
    """Raises UnsupportedModel."""
    raise UnsupportedModel(
        f"a general preference model ({VALUE} has {candidate.tensor(VALUE).shape[0]} rows): it gives an answer an "
        "embedding and two answers a preference, a skew-symmetric form of both that need not be transitive, so an "
        "answer alone has no score; the published code has variants (length 1 or not, scaled by sqrt(hidden) or by "
        "half the dimensions) that config.json does not tell apart, and replaces the last token by eos"
    )


HEAD = RefusedHead(
    name="general_preference",
    claims=claims,
    refuse=refuse,
)
