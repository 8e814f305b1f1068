"""How far a quantized bundle's scores are from those of the same bundle unquantized, and how far they may be (numpy).

A budget bounds three numbers: the mean error as a share of the scores' standard deviation, Spearman's rank correlation,
and the share of pairs whose order changes. docs/performance.md has what the levels were chosen by.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from rmexport.errors import OptionError
from rmexport.verify.parity import Check, Values, flipped_pairs, spearman

Pairs = Sequence[tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The most that quantization may cost: `error` and `flips` are shares, `spearman` is the least correlation."""

    error: float
    spearman: float
    flips: float


LEVELS = {
    "strict": Budget(error=0.03, spearman=0.999, flips=0.01),
    "normal": Budget(error=0.10, spearman=0.99, flips=0.03),
    "loose": Budget(error=0.25, spearman=0.95, flips=0.08),
}


def read_budget(text: str) -> Budget:
    """A level's name, or `error=0.1,spearman=0.99,flips=0.02`, where what is left out is as in "normal".

    Raises OptionError for anything else.

    >>> read_budget("spearman=0.98")
    Budget(error=0.1, spearman=0.98, flips=0.03)
    """
    if text in LEVELS:
        return LEVELS[text]
    bounds = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        bounds[name.strip()] = _share(text, value)
    if unknown := sorted(set(bounds) - set(asdict(LEVELS["normal"]))):
        raise _wrong(text, f"it names {', '.join(unknown)}")
    return replace(LEVELS["normal"], **bounds)


def _share(text: str, value: str) -> float:
    try:
        share = float(value)
    except ValueError:
        raise _wrong(text, f"{value!r} is no number") from None
    if not 0 <= share <= 1:
        raise _wrong(text, f"{value} is not between 0 and 1")
    return share


def _wrong(text: str, fault: str) -> OptionError:
    return OptionError(
        f"--quality is {text!r}: {fault}; expected {', '.join(LEVELS)}, or some of error, spearman and flips, such as "
        "spearman=0.99,flips=0.02"
    )


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What quantization did to one output: errors against the unquantized bundle's scores, of that `deviation`.

    `pairs` were compared, those that the records are or else all; `flipped` changed their order, and of these
    `flipped_beyond_noise` had scores farther apart than `noise`, twice the unquantized engine's largest error
    against the fp32 reference. `reference_error` and `unquantized_error` are the mean errors against that reference.
    """

    output: str
    mean_error: float
    largest_error: float
    deviation: float
    spearman: float
    pairs: int
    pairs_of_records: bool
    flipped: int
    flipped_beyond_noise: int
    noise: float
    reference_error: float
    unquantized_error: float

    @property
    def relative_error(self) -> float:
        """The mean error as a share of the deviation; 0 where there is no error, whatever the deviation."""
        if self.mean_error == 0.0:
            return 0.0
        return self.mean_error / self.deviation if self.deviation else float("inf")

    @property
    def flips(self) -> float:
        """The share of pairs that were flipped."""
        return self.flipped / self.pairs if self.pairs else 0.0


def measure_quality(output: str, engine: Values, unquantized: Values, reference: Values, pairs: Pairs) -> Quality:
    """Compare the scores [N] of one output; `pairs` are places of two answers, none where the records are no pairs.

    >>> scores = np.array([0.0, 1.0, 2.0])
    >>> measure_quality("score", scores + 0.1, scores, scores, pairs=()).spearman
    1.0
    """
    error = np.abs(engine - unquantized)
    unquantized_error = np.abs(unquantized - reference)
    noise = 2 * float(unquantized_error.max(initial=0.0))
    flips = [_flipped(engine, unquantized, pairs, margin) for margin in (0.0, noise)]
    return Quality(
        output=output,
        mean_error=float(error.mean()),
        largest_error=float(error.max(initial=0.0)),
        deviation=float(unquantized.std()),
        spearman=spearman(engine, unquantized),
        pairs=len(pairs) or len(engine) * (len(engine) - 1) // 2,
        pairs_of_records=bool(pairs),
        flipped=flips[0],
        flipped_beyond_noise=flips[1],
        noise=noise,
        reference_error=float(np.abs(engine - reference).mean()),
        unquantized_error=float(unquantized_error.mean()),
    )


def _flipped(engine: Values, unquantized: Values, pairs: Pairs, margin: float) -> int:
    if not pairs:
        return flipped_pairs(engine, unquantized, margin=margin)
    return sum(flipped_pairs(engine[[a, b]], unquantized[[a, b]], margin=margin) for a, b in pairs)


def quality_checks(found: Quality, budget: Budget) -> list[Check]:
    """The budget's three lines, for one output.

    >>> scores = np.arange(5.0)
    >>> found = measure_quality("score", scores, scores, scores, pairs=())
    >>> [check.passed for check in quality_checks(found, LEVELS["strict"])]
    [True, True, True]
    """
    kind = "pairs of the records" if found.pairs_of_records else "pairs"
    return [
        Check(
            name=f"{found.output}: mean error over the deviation of the unquantized scores",
            measured=f"{found.relative_error:.4f} ({found.mean_error:.2e} / {found.deviation:.2e}; "
            f"at most {found.largest_error:.2e})",
            required=f"<= {budget.error:g}",
            passed=found.relative_error <= budget.error,
        ),
        Check(
            name=f"{found.output}: Spearman rank correlation with them",
            measured=f"{found.spearman:.6f}",
            required=f">= {budget.spearman:g}",
            passed=found.spearman >= budget.spearman - 1e-12,
        ),
        Check(
            name=f"{found.output}: {kind} flipped",
            measured=f"{found.flips:.2%} ({found.flipped} of {found.pairs}; {found.flipped_beyond_noise} beyond noise)",
            required=f"<= {budget.flips:.2%}",
            passed=found.flips <= budget.flips,
        ),
    ]
