"""Whom the storage of weights reports to while it is at work."""

from collections.abc import Callable
from dataclasses import dataclass, field

from rmexport.unfinished_folder import Notify, ignore
from rmexport.weights.journal import Journal

# (bytes done, bytes in total), from the start of what an interrupted export left; called from worker threads, one at a
# time.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Reports:
    """`progress` of the bytes, what the user should know, and the journal of complete shards."""

    progress: Progress | None = None
    notify: Notify = ignore
    journal: Journal = field(default_factory=lambda: Journal(None))


NOBODY = Reports()
