"""The options of a benchmark, checked before anything is loaded."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rmexport.bench.profiles import PROFILES
from rmexport.errors import OptionError
from rmruntime.option_checks import COUNT, THREADS, TOKENS, Limit, check_fields
from rmruntime.options import Precision

SCENARIOS = ("single-stream", "server", "offline")
DEFAULT_PROFILE = "mixed"
_SECONDS = Limit(0, 1e9, "more than 0")
_LIMITS = {
    **dict.fromkeys(("peer_batch", "warmup", "repeats", "requests"), COUNT),
    **dict.fromkeys(("duration_s", "timeout_s", "slo_ms"), _SECONDS),
    "seed": Limit(0, (1 << 63) - 1, "a whole number from 0"),
    "max_batch_tokens": TOKENS,
    "threads": THREADS,
}


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """Options of `rmexport bench`.

    `workload` is a file of records; without one, `profile` names a seeded workload. `peers` are NAME, NAME:dtype,
    bundle:PATH or the path of a peer module; `peer_python` maps a NAME to the Python interpreter that it runs in.
    `peer_batch` is the most sequences in a peer's batch. `warmup` is the number of requests in a warm-up window,
    `requests` that in a single-stream repeat, `duration_s` the most seconds of a repeat and of a server run. `rates`
    are requests per second; without any, the server scenario searches for the knee, the highest rate that a contestant
    keeps up with. `slo_ms` is the latency objective, in ms. `timeout_s` is the longest wait for one answer of a
    contestant. `peer_cache` is the folder that keeps converted checkpoints. `peer_folder` has the
    peers' environments, a folder each, for those that `peer_python` does not name. `max_batch_tokens` None is each
    engine's own choice.

    >>> BenchOptions(profile="unknown")
    Traceback (most recent call last):
    rmexport.errors.OptionError: --profile is 'unknown', expected one of ragged, best-of-8, pairs, ...
    """

    scenarios: tuple[str, ...] = ("single-stream", "offline")
    workload: str | Path | None = None
    profile: str | None = None
    checkpoint: str | None = None
    peers: tuple[str, ...] = ()
    peer_python: Mapping[str, str] = field(default_factory=dict)
    peer_batch: int = 8
    peer_cache: Path | None = None
    peer_folder: Path | None = None
    device: str = "auto"
    precision: Precision = "auto"
    threads: int = 0
    max_batch_tokens: int | None = None
    warmup: int = 5
    repeats: int = 3
    requests: int = 64
    duration_s: float = 30.0
    rates: tuple[float, ...] = ()
    slo_ms: float | None = None
    seed: int = 0
    timeout_s: float = 1800.0

    def __post_init__(self) -> None:
        """Raises OptionError for a value that is none of the choices, of another type, or out of range."""
        check_fields(self, _LIMITS, error=OptionError, label=_flag)
        for name in self.scenarios:
            _check("scenario", name, name in SCENARIOS, f"one of {', '.join(SCENARIOS)}")
        _check("scenario", self.scenarios, len(set(self.scenarios)) == len(self.scenarios) > 0, "each one once")
        _check("profile", self.profile, self.profile in (None, *PROFILES), f"one of {', '.join(PROFILES)}")
        if self.workload is not None and self.profile is not None:
            raise OptionError("found both --workload and --profile, expected one of them")
        for positive in ("duration_s", "timeout_s", "slo_ms"):
            _check(positive, getattr(self, positive), getattr(self, positive) != 0, "more than 0")
        for rate in self.rates:
            _check("rate", rate, 0 < rate < 1e9, "more than 0 requests a second")
        _check("peer", self.peers, len(set(self.peers)) == len(self.peers), "each one once")


def _check(name: str, value: object, good: bool, expected: str) -> None:
    if not good:
        raise OptionError(f"{_flag(name)} is {value!r}, expected {expected}")


def _flag(name: str) -> str:
    """An option's name on the command line."""
    name = {"scenarios": "scenario", "peers": "peer", "rates": "rate"}.get(name, name)
    return f"--{name.removesuffix('_s').replace('_', '-')}"
