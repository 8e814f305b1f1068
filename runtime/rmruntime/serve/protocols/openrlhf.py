"""OpenRLHF's remote reward model: /get_reward, which PPO and its relatives call once for each sample.

Its client tries five times, a second apart, whatever the answer says, and then goes on without a reward, so that a
refusal ends the training. It waits three minutes for an answer. So a request that the queue has no space for, or that
comes while the bundle is loaded, is held here until there is, and refused only when the client would soon go anyway.
"""

import asyncio
import time
from typing import Any

from rmruntime.scores import Score
from rmruntime.serve.activation import score_value
from rmruntime.serve.fields import Fields, wrong
from rmruntime.serve.http_messages import Answer, HttpRequest
from rmruntime.serve.problems import PASSING, Problem, Refused
from rmruntime.serve.protocols.base import Protocol, Route
from rmruntime.serve.score_call import Scoring
from rmruntime.serve.service import Service

HOLD_SECONDS = 150.0  # of the 180 that the client waits for an answer
_PAUSE = 0.25  # seconds until a held request is tried again


async def get_reward(request: HttpRequest, service: Service) -> Answer:
    """POST /get_reward: {"query": [texts]} with prompt and response as one templated text; "prompts" and "labels",
    which may be there too, are not read.

    Answers {"rewards", "scores", "extra_logs"}, each list with one number per query; "extra_logs" has the objectives of
    a model with several. The texts get no second BOS and no other special tokens than the bundle's own format says.
    """
    fields = Fields(request.data)
    queries = fields.texts("query", or_one=True)
    if not queries:
        raise wrong("query", queries, "at least one text")
    scoring = await _held(request, service, fields.optional_text("model"), [{"text": query} for query in queries])
    rewards = [score_value(score) for score in scoring.scores]
    return Answer.of_json({"rewards": rewards, "scores": rewards, "extra_logs": _objectives(scoring.scores)})


def error_body(problem: Problem, status: int) -> object:
    """{"detail"}, as FastAPI has it, in which OpenRLHF's own server is written."""
    return {"detail": "Unauthorized" if problem.kind == "unauthorized" else problem.message}


async def _held(request: HttpRequest, service: Service, model: str | None, records: list[dict[str, Any]]) -> Scoring:
    """The scores, once there is space for the records. Raises as `Service.score` does."""
    left = request.seconds_left()
    until = time.monotonic() + (HOLD_SECONDS if left is None else min(left, HOLD_SECONDS))
    while True:
        try:
            return await service.score(request, service.model(model), records)
        except Refused as error:
            if error.problem.kind not in PASSING or service.draining or time.monotonic() + _PAUSE > until:
                raise
        request.trace.records = 0  # they are counted each time
        await asyncio.sleep(_PAUSE)


def _objectives(scores: list[Score]) -> dict[str, list[float]]:
    """The rewards by objective, each with a number for every score."""
    found = [score.rewards for score in scores if score.rewards]
    return {name: [rewards[name] for rewards in found] for name in found[0]} if found else {}


PROTOCOL = Protocol(
    name="openrlhf",
    routes=(Route("POST", "/get_reward", get_reward),),
    error_body=error_body,
)
