"""What our own protocols share: the scoring options in a body, and what answers say of the model and the tokens."""

from typing import Any, get_args

from rmruntime.batching.runner import Statistics
from rmruntime.options import Aggregate, ScoreOptions
from rmruntime.serve.fields import Fields
from rmruntime.serve.served_model import ModelFacts

OPTIONS = ("truncate", "max_length", "aggregate", "strict_content")


def options_of(fields: Fields) -> ScoreOptions:
    """The scoring options among a body's fields. Raises Refused ("malformed")."""
    sides: Any = fields.choice("truncate", ("left", "right"), "left") if "truncate" in fields else None
    aggregate: Any = fields.choice("aggregate", get_args(Aggregate), "mean")
    return ScoreOptions(
        truncate=sides,
        max_length=fields.integer("max_length", least=1),
        aggregate=aggregate,
        strict_content=bool(fields.flag("strict_content")),
    )


def model_of(facts: ModelFacts) -> dict[str, Any]:
    """Which bundle and engine answered.

    `digest` is the manifest's, by which two bundles are the same.
    """
    return {"name": facts.name, "digest": facts.digest, "engine": facts.engine, "precision": facts.precision}


def usage_of(statistics: Statistics) -> dict[str, int]:
    """Tokens given, computed and cached.

    >>> usage_of(Statistics(given=5, computed=3, cached=2))
    {'tokens': 5, 'computed_tokens': 3, 'cached_tokens': 2}
    """
    return {
        "tokens": statistics.given,
        "computed_tokens": statistics.computed,
        "cached_tokens": statistics.cached,
    }
