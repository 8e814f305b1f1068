"""The rule by which `auto`, or another general device name, chooses among the engines that can run a bundle here.

Of the engines whose weights fit into the free memory, the fastest is taken; where none fits, the one that needs least.
Each engine reports its own facts, so this file names no engine. They depend on the bundle, the options, the processor
and the memory that is free when the model is loaded: the same machine in the same state chooses the same engine.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rmruntime.options import format_bytes

NAMED = "it was asked for by name"


@dataclass(frozen=True, kw_only=True)
class EngineFacts:
    """How an engine would run a graph, known without loading it.

    `precision` is the arithmetic that would run. `speed` is a rough relative speed: 1 for fp32 matrix products on a CPU
    with weights packed in memory. `memory` is the host memory that the weights take, in bytes beyond the page cache; 0
    where they are in a device's own memory. `because` is a clause with the reason for the speed; empty where none is
    needed.
    """

    precision: str
    speed: float
    memory: int
    because: str = ""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An engine that can run the bundle here.

    >>> str(Candidate(name="ort_cpu", facts=EngineFacts(precision="fp32", speed=1.0, memory=4 * 10**9)))
    'ort_cpu in fp32'
    """

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
    """The engine to take where `free` bytes of memory are left for weights; the first of `candidates` wins ties.

    `candidates` must not be empty. `missing` names engines that are not installed, for the reason that is returned.

    >>> small = Candidate(name="small", facts=EngineFacts(precision="bf16", speed=1.0, memory=2 * 10**9))
    >>> fast = Candidate(name="fast", facts=EngineFacts(precision="bf16", speed=3.0, memory=4 * 10**9))
    >>> preferred([small, fast], free=8 * 10**9).name
    'fast'
    >>> preferred([small, fast], free=3 * 10**9).reason
    'fast in bf16, which is faster, needs 4.0 GB for its weights where 3.0 GB are free'
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
    return f"needs {format_bytes(candidate.facts.memory)} for its weights where {format_bytes(free)} are free"


def _faster(best: Candidate, others: Sequence[Candidate]) -> str:
    runner_up = max(others, key=lambda c: c.facts.speed)
    if best.facts.speed == runner_up.facts.speed:
        return f"it comes before {runner_up}, which is as fast"
    why = best.facts.because or runner_up.facts.because
    return f"it is faster here than {runner_up}" + (f": {why}" if why else "")
