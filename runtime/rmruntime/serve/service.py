"""What handlers have of the server: the models by name, and the scores of records."""

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from rmruntime.errors import QueueFull
from rmruntime.options import ScoreOptions
from rmruntime.reward_model import RewardModel
from rmruntime.serve.api_keys import ApiKeys
from rmruntime.serve.http_messages import HttpRequest
from rmruntime.serve.observer import Observer
from rmruntime.serve.problems import Refused
from rmruntime.serve.score_call import SMALL_BODY, ScoreCall, Scoring
from rmruntime.serve.served_model import ServedModel
from rmruntime.serve.server_options import ServerOptions
from rmruntime.serve.session_store import SessionStore
from rmruntime.serve.throughput import Throughput

Result = TypeVar("Result")
THREADS = 4  # that tokenize what is too long for the event loop


class Service:
    """One or several models, which all requests share. For the event loop's thread alone.

    `draining` is True once the server ends: it answers what it has, and is not ready for more.
    """

    def __init__(self, models: Iterable[ServedModel], options: ServerOptions | None = None) -> None:
        """The first model is the one that requests without a name mean."""
        self.models: dict[str, ServedModel] = {model.name: model for model in models}
        self.options = options or ServerOptions()
        self.draining = False
        self.began = time.time()
        self.pool = ThreadPoolExecutor(THREADS, thread_name_prefix="rmruntime-serve")
        self.observer = Observer()
        self.keys = ApiKeys(self.options.api_keys)
        self.sessions = SessionStore(self.options.max_sessions)
        self._throughput = Throughput()

    @property
    def is_ready(self) -> bool:
        """Whether every model is loaded and more requests are wanted."""
        return not self.draining and all(model.is_loaded for model in self.models.values())

    def model(self, name: str | None = None) -> ServedModel:
        """The model of that name; the first for None, and the only one for any name, as clients send paths.

        Raises Refused: "unknown_model" where there are several and none has the name, "unavailable" while it loads.
        """
        found = next(iter(self.models.values())) if name is None or len(self.models) == 1 else self.models.get(name)
        if found is None:
            known = ", ".join(self.models)
            raise Refused("unknown_model", f"the model {name!r} is not served here, only {known}", field="model")
        _ = found.generation
        return found

    async def score(
        self,
        request: HttpRequest,
        model: ServedModel,
        records: Sequence[Mapping[str, Any]],
        options: ScoreOptions | None = None,
    ) -> Scoring:
        """The scores of records, dicts as in the CLI's JSON lines.

        Raises the error of the first that has none, with its index where there are several; QueueFull,
        DeadlineExceeded and BackendError.
        """
        return await self._scored(request, model, records, options, strict=True)

    async def score_each(
        self,
        request: HttpRequest,
        model: ServedModel,
        records: Sequence[Mapping[str, Any]],
        options: ScoreOptions | None = None,
    ) -> Scoring:
        """`score`, where a record that cannot be scored has its InputError in its place."""
        return await self._scored(request, model, records, options, strict=False)

    async def run(self, request: HttpRequest, work: Callable[[], Result]) -> Result:
        """What `work` returns, such as the tokens of a text: on a thread, unless the request's body is small."""
        if len(request.body) <= SMALL_BODY:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self.pool, work)

    def retry_after(self, model: ServedModel) -> float:
        """Seconds until about what waits now has been scored, 1 to 60."""
        return min(60.0, max(1.0, math.ceil(self._throughput.seconds_for(model.model.waiting_tokens))))

    async def _scored(
        self,
        request: HttpRequest,
        model: ServedModel,
        records: Sequence[Mapping[str, Any]],
        options: ScoreOptions | None,
        *,
        strict: bool,
    ) -> Scoring:
        trace, begun = request.trace, time.monotonic()
        with model.lease() as generation:
            trace.facts = generation.facts
            trace.records += len(records)
            call = ScoreCall(
                generation.model, records, options or ScoreOptions(), deadline=request.deadline, strict=strict
            )
            try:
                found = await call.run(self.pool, len(request.body))
            except QueueFull as error:
                raise Refused("overloaded", str(error), retry_after=self.retry_after(model)) from error
        scoring = Scoring(facts=generation.facts, records=found)
        trace.statistics += scoring.statistics
        trace.tokenize_seconds += call.put_at - begun
        trace.score_seconds += time.monotonic() - call.put_at
        self._throughput.add(scoring.statistics.given)
        return scoring


def served(model: RewardModel | Mapping[str, RewardModel]) -> list[ServedModel]:
    """Models under their names; a lone one is named "default"."""
    named = {"default": model} if isinstance(model, RewardModel) else model
    return [ServedModel(name, loaded) for name, loaded in named.items()]
