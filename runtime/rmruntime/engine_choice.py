"""The rule by which `auto`, or another general device name, chooses among the engines that can run a bundle here.

An engine states facts, and this file names none. Of those whose weights fit into the free memory, the fastest is taken;
where none fits, the one that takes least. Facts follow from the bundle, the options, the processor and the memory that
is free when the model is loaded: the same machine in the same state gives the same engine.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rmruntime.options import shown_bytes

NAMED = "it was asked for by name"


@dataclass(frozen=True, kw_only=True)
class EngineFacts:
    """What an engine would do with a graph, known without loading it.

    `precision` is the arithmetic that would run. `speed` says about how fast: 1 for fp32 products on a CPU from packed
    weights. `memory` is what the weights take of the host's memory, in bytes beyond the page cache; 0 where they lie on
    a device of their own. `because` is a clause that says what the speed comes from, where that is not plain.
    """

    precision: str
    speed: float
    memory: int
    because: str = ""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An engine that can run the bundle here."""

    name: str
    facts: EngineFacts

    def __str__(self) -> str:
        return f"{self.name} in {self.facts.precision}"


@dataclass(frozen=True, kw_only=True)
class Preference:
    """The engine to take, and why, as a clause that follows "because"."""

    name: str
    reason: str


def preferred(candidates: Sequence[Candidate], free: int, missing: Sequence[str] = ()) -> Preference:
    """The engine to take where weights may have `free` bytes of memory; `candidates` has some, the first wins ties.

    `missing` are engines that could be asked too, were they installed.

    >>> slow = Candidate(name="slow", facts=EngineFacts(precision="fp32", speed=0.5, memory=0))
    >>> fast = Candidate(name="fast", facts=EngineFacts(precision="fp32", speed=1.0, memory=2_000_000))
    >>> preferred([slow, fast], free=1_000_000_000)
    Preference(name='fast', reason='it is faster here than slow in fp32')
    """
    if len(candidates) == 1:
        return Preference(name=candidates[0].name, reason=_alone(missing))
    fitting = [c for c in candidates if c.facts.memory <= free]
    best = max(fitting, key=lambda c: c.facts.speed) if fitting else min(candidates, key=lambda c: c.facts.memory)
    faster = [c for c in candidates if c.facts.speed > best.facts.speed]
    others = [c for c in candidates if c is not best]
    if not fitting:
        return Preference(name=best.name, reason=f"it {_needs(best, free)}, and others need more")
    if faster:
        fastest = max(faster, key=lambda c: c.facts.speed)
        return Preference(name=best.name, reason=f"{fastest}, which is faster, {_needs(fastest, free)}")
    return Preference(name=best.name, reason=_faster(best, others))


def _alone(missing: Sequence[str]) -> str:
    verb = "is" if len(missing) == 1 else "are"
    return "no other engine can run this bundle here" + (
        f" ({' and '.join(missing)} {verb} not installed)" if missing else ""
    )


def _needs(candidate: Candidate, free: int) -> str:
    return f"needs {shown_bytes(candidate.facts.memory)} for its weights where {shown_bytes(free)} are free"


def _faster(best: Candidate, others: Sequence[Candidate]) -> str:
    runner_up = max(others, key=lambda c: c.facts.speed)
    if best.facts.speed == runner_up.facts.speed:
        return f"it comes before {runner_up}, which is as fast"
    why = best.facts.because or runner_up.facts.because
    return f"it is faster here than {runner_up}" + (f": {why}" if why else "")
