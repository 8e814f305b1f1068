"""The reference's scores that `verify` measures by: taken from the cache where they are there, else computed and kept.

A few sequences go first, and tell what the others will cost.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from rmexport.output.progress import Advance, Watcher
from rmexport.verify.reference import Reference, ReferenceScores
from rmexport.verify.reference_cache import ReferenceCache
from rmexport.verify.reference_key import ReferenceKey, sequence_key
from rmexport.verify.reference_pass import Meter, SequenceStates, Speed
from rmruntime.sequences import TokenSequence

FIRST = 4  # sequences that tell the speed
WORTH_SAYING = 5.0  # seconds; what takes less is not announced
KEEP_EVERY = 30.0  # seconds of computing after which it is kept: an interrupt loses no more
LOADING = 20.0  # but a pass takes so many times as long as loading its weights


@dataclass(frozen=True, kw_only=True)
class ScoreOrigin:
    """Where the scores of one arithmetic came from: how many sequences were `computed` now and how many were `kept`.

    `kept_since` is the time (ISO, UTC) at which the oldest of these was computed. The same sequence counts once.
    """

    dtype: str
    computed: int
    kept: int
    kept_since: str | None


@dataclass(frozen=True, kw_only=True)
class Yardstick:
    """The reference's scores in one arithmetic."""

    scores: ReferenceScores
    origin: ScoreOrigin


def compute_yardsticks(
    reference: Reference,
    sequences: Sequence[TokenSequence],
    dtypes: Sequence[str],
    key: ReferenceKey,
    cache: ReferenceCache,
    watcher: Watcher,
) -> dict[str, Yardstick]:
    """The scores of the sequences in each of `dtypes`, bitwise those of one run without a cache.

    Raises VerificationError where the checkpoint changes meanwhile.
    """
    keys = [sequence_key(sequence) for sequence in sequences]
    wanted = dict(zip(keys, sequences, strict=True))
    shelf = _Shelf(reference, key, cache, watcher)
    works = [_Arithmetic(dtype, wanted, shelf) for dtype in dtypes]
    try:
        for work in works:
            work.compute_first()
        _announce(works, shelf)
        for work in works:
            work.compute_rest()
    except KeyboardInterrupt:
        _announce_kept(works, shelf)
        raise
    return {work.dtype: work.result(keys) for work in works}


@dataclass(frozen=True)
class _Shelf:
    """What computes states, and where they are kept under which key."""

    reference: Reference
    key: ReferenceKey
    cache: ReferenceCache
    watcher: Watcher


class _Arithmetic:
    """The states of all sequences in one dtype: those found in the cache, and what is missing."""

    def __init__(self, dtype: str, wanted: Mapping[str, TokenSequence], shelf: _Shelf) -> None:
        self.dtype, self._wanted, self._shelf = dtype, wanted, shelf
        self._kept = shelf.cache.read(shelf.key, dtype, wanted)
        self._states = {name: kept.states for name, kept in self._kept.items()}
        self._speed = Speed(loading=0.0, per_token=0.0)

    @property
    def missing(self) -> list[str]:
        """The keys of sequences whose states are not there yet, in order."""
        return [name for name in self._wanted if name not in self._states]

    @property
    def computed(self) -> int:
        """How many sequences this run computed."""
        return len(self._states) - len(self._kept)

    @property
    def seconds_left(self) -> float:
        """What the missing ones will take, at the speed of those that were computed."""
        return self._speed.seconds(self._tokens(self.missing)) if self.missing else 0.0

    def compute_first(self) -> None:
        """Compute a few of the missing sequences and learn how long they take."""
        first = self.missing[:FIRST]
        if not first:
            return
        title = f"transformers in {self.dtype}, the first {len(first)} conversations"
        with self._shelf.watcher.bars(title, self._tokens(first), "tokens") as advance:
            self._speed = self._compute(first, advance)

    def compute_rest(self) -> None:
        """Compute what is missing, a part at a time so that an interrupt loses little of it."""
        if not self.missing:
            return
        title = f"transformers in {self.dtype}"
        with self._shelf.watcher.bars(title, self._tokens(self.missing), "tokens") as advance:
            for part in list(self._parts()):
                self._compute(part, advance)

    def result(self, keys: Sequence[str]) -> Yardstick:
        """The scores of sequences by their keys."""
        scores = self._shelf.reference.scores([self._states[name] for name in keys], self.dtype)
        made = min((kept.made for kept in self._kept.values()), default=None)
        since = None if made is None else datetime.fromtimestamp(made, UTC).isoformat(timespec="seconds")
        origin = ScoreOrigin(dtype=self.dtype, computed=self.computed, kept=len(self._kept), kept_since=since)
        return Yardstick(scores=scores, origin=origin)

    def _compute(self, names: Sequence[str], advance: Advance) -> Speed:
        shelf, meter = self._shelf, Meter(self._shelf.watcher.clock, advance)
        found = shelf.reference.states([self._wanted[name] for name in names], self.dtype, meter)
        states: dict[str, SequenceStates] = dict(zip(names, found, strict=True))
        shelf.key.check()
        shelf.cache.keep(shelf.key, self.dtype, states)
        self._states |= states
        return meter.speed

    def _parts(self) -> Iterator[list[str]]:
        """The missing sequences, cut where a part takes long enough; one part where nothing is kept."""
        seconds = max(KEEP_EVERY, LOADING * self._speed.loading) if self._shelf.cache.keeps else float("inf")
        part: list[str] = []
        spent = 0.0
        for name in self.missing:
            part.append(name)
            spent += len(self._wanted[name].ids) * self._speed.per_token
            if spent >= seconds:
                yield part
                part, spent = [], 0.0
        if part:
            yield part

    def _tokens(self, names: Sequence[str]) -> int:
        return sum(len(self._wanted[name].ids) for name in names)


def _announce(works: Sequence[_Arithmetic], shelf: _Shelf) -> None:
    """What is still to be computed, where that takes more than a few seconds."""
    if sum(work.seconds_left for work in works) < WORTH_SAYING:
        return
    costs = [
        f"transformers in {work.dtype}: about {duration(work.seconds_left)} for {len(work.missing)} conversations"
        for work in works
        if work.missing
    ]
    kept = f" (kept in {shelf.cache.folder}: computed once)" if shelf.cache.keeps else ""
    shelf.watcher.notify("; ".join(costs) + kept)


def _announce_kept(works: Sequence[_Arithmetic], shelf: _Shelf) -> None:
    """After an interrupt."""
    if shelf.cache.keeps and (count := sum(work.computed for work in works)):
        shelf.watcher.notify(
            f"the reference's scores of {count} conversations are kept in {shelf.cache.folder}: run the same command "
            "again to continue"
        )


def duration(seconds: float) -> str:
    """In the largest unit that leaves a number above one or so.

    >>> [duration(seconds) for seconds in (40, 180, 9000)]
    ['40 s', '3 min', '2.5 h']
    """
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5970 else f"{seconds / 3600:.1f} h"
