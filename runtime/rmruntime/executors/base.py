"""The seam between planning and running: submitted passes in, futures of their outputs out."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future

from rmruntime.backends.base import Feeds, Outputs
from rmruntime.errors import RewardModelError
from rmruntime.manifest import Graph


class PassExecutor(ABC):
    """Runs passes of one model, in the order in which they are submitted; safe from several threads.

    `name` and `precision` are reported with scores, and `reason`, a clause that follows "because": why this engine was
    chosen; empty where nobody chose. `graph` says what passes must look like, `batch_tokens` how many tokens one had
    best compute where the user does not say. Whoever has many passes had best submit them `wave_tokens` tokens at a
    time (0: one by one), with `ahead` submissions waiting behind the one whose results are awaited.
    """

    name: str
    precision: str
    reason: str = ""
    graph: Graph
    batch_tokens: int
    wave_tokens: int = 0
    ahead: int = 0

    @abstractmethod
    def submit(self, passes: Sequence[Feeds]) -> Sequence[Future[Outputs]]:
        """A future for each pass, which raises what `Backend.run` raises. Raises RewardModelError once closed."""

    @abstractmethod
    def close(self) -> None:
        """Free the engines; waits for what they are computing, and passes that have not begun are cancelled."""


def closed_error() -> RewardModelError:
    """For whoever scores with a closed model."""
    return RewardModelError("this RewardModel is closed; load the bundle again")
