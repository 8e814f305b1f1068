"""A pass on its way through the stages."""

from concurrent.futures import Future
from dataclasses import dataclass, field

from rmruntime.backends.base import Feeds, Outputs
from rmruntime.executors.stage_group import StageGroup


@dataclass
class Job:
    """`state` is what the stages so far gave. What it holds is let go where it fails."""

    feeds: Feeds
    state: Outputs | None = None
    future: Future[Outputs] = field(default_factory=Future)

    def advance(self, group: StageGroup) -> None:
        """Run it through some stages, unless it failed in an earlier one."""
        if self.future.done():
            return
        try:
            self.state = group.run(self.feeds, self.state)
        except Exception as error:  # of any type: it is the future's to raise
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """End it, unless it has ended."""
        if not self.future.done():
            self.feeds, self.state = {}, None
            self.future.set_exception(error)

    def finish(self) -> None:
        """Give what the last stage gave, unless it failed."""
        if not self.future.done():
            assert self.state is not None  # some stage ran
            self.future.set_result(self.state)
