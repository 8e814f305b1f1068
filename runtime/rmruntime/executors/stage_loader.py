"""Loads groups of stages in turn: while one computes, the next is read ahead and, where memory allows, loaded."""

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from rmruntime.bundle.manifest import Stage, WeightRange
from rmruntime.executors.stage_group import StageGroup, StageSource
from rmruntime.options import EngineOptions

THREAD_NAME = "rmruntime-load"
_BLOCK = 8 << 20  # bytes read at a time


class StageLoader:
    """Loads one group of stages after another, and begins again after the last.

    `ahead`: the next group is loaded while the one before computes; otherwise its weights are only read into the page
    cache meanwhile. `forget`: drop the weights of finished groups from the page cache, where it cannot hold all groups:
    the kernel would keep these, which were used most, and drop those that are read ahead. Use it from one thread only.
    """

    def __init__(
        self,
        source: StageSource,
        groups: Sequence[Sequence[Stage]],
        options: EngineOptions,
        *,
        ahead: bool,
        forget: bool,
    ) -> None:
        """Starts to load the first group."""
        self._source, self._groups, self._options = source, groups, options
        self._ahead, self._forget = ahead, forget
        self._stopped = threading.Event()
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=THREAD_NAME)
        self._begun: Future[StageGroup] | None = self._begin(0)

    def first(self) -> StageGroup:
        """The first group, loaded; `groups` yields it too. Raises what loading it raises."""
        return self._taken(0)

    def groups(self) -> Iterator[StageGroup]:
        """Every group, loaded, in order; each is freed before the next is yielded. Raises what loading raises."""
        for place in range(len(self._groups)):
            group = self._taken(place)
            self._begun = self._begin_next(place)
            try:
                yield group
            finally:
                group.close()
                if self._forget:
                    forget_cached(self._source.bundle.folder, self._groups[place])

    def close(self) -> None:
        """Free what is loaded."""
        self._stopped.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._begun is not None and not self._begun.cancelled() and self._begun.exception() is None:
            self._begun.result().close()
        self._begun = None

    def _taken(self, place: int) -> StageGroup:
        """The group number `place`, whose loading may have begun. After a failure, the next call tries again."""
        begun = self._begun or self._begin(place)
        try:
            group = begun.result()
        except BaseException:
            self._begun = None
            raise
        self._begun = begun
        return group

    def _begin_next(self, place: int) -> Future[StageGroup] | None:
        following = (place + 1) % len(self._groups)
        if self._ahead:
            return self._begin(following)
        self._pool.submit(self._read_ahead, following)
        return None

    def _begin(self, place: int) -> Future[StageGroup]:
        return self._pool.submit(self._load, place)

    def _load(self, place: int) -> StageGroup:
        self._read_ahead(place)
        return self._source.load(self._groups[place], self._options)

    def _read_ahead(self, place: int) -> None:
        for stage in self._groups[place]:
            for run in stage.ranges:
                read_ahead(self._source.bundle.folder, run, self._stopped)


def forget_cached(folder: Path, stages: Sequence[Stage]) -> None:
    """Drop the stages' weights from the kernel's page cache, except for bytes that a process has mapped."""
    for run in (run for stage in stages for run in stage.ranges):
        with suppress(OSError), (folder / run.file).open("rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), run.offset, run.nbytes, os.POSIX_FADV_DONTNEED)


def read_ahead(folder: Path, run: WeightRange, stopped: threading.Event) -> None:
    """Read the bytes `run` of a weight file into the kernel's page cache; ends early once `stopped` is set.

    A file that cannot be read is no error here: the engine reports it.

    >>> _ = Path("weights").write_bytes(bytes(64))
    >>> read_ahead(Path(), WeightRange(file="weights", offset=0, nbytes=64), threading.Event())
    """
    block = bytearray(_BLOCK)
    with suppress(OSError), (folder / run.file).open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), run.offset, run.nbytes, os.POSIX_FADV_SEQUENTIAL)
        file.seek(run.offset)
        left = run.nbytes
        while left > 0 and not stopped.is_set():
            count = file.readinto(memoryview(block)[: min(left, _BLOCK)])
            if not count:
                return
            left -= count
