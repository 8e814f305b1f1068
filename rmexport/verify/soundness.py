"""Whether scores mean anything at all: that nothing overflowed on the way to them, and that they differ.

A model that overflows in the same way in transformers agrees with it, so the parity gate alone would let it pass.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rmexport.verify.parity import FP16_LIMIT, Check
from rmexport.verify.reference_backbone import LayerPeak
from rmruntime.sequences import TokenSequence

# Norms square their input in fp32, whatever the bundle's dtype: what is larger becomes infinite there, and its
# reciprocal 0, so that everything after the norm is 0.
SQUARED_LIMIT = math.sqrt(float(np.finfo(np.float32).max))

Outputs = Mapping[str, NDArray[np.float32]]


def worst_peak(peaks: Sequence[LayerPeak], dtype: str) -> LayerPeak | None:
    """The first layer with activations beyond the limit of `dtype`, else the one with the largest.

    None where none was watched.

    >>> worst_peak([LayerPeak("layers.0", 7e4), LayerPeak("layers.1", 9e4)], "fp16").layer
    'layers.0'
    >>> worst_peak([LayerPeak("layers.0", 7.0), LayerPeak("layers.1", 9.0)], "fp16").layer
    'layers.1'
    """
    beyond = [peak for peak in peaks if not peak.magnitude <= _limit(dtype)]  # NaN too is beyond
    return beyond[0] if beyond else max(peaks, key=lambda peak: peak.magnitude, default=None)


def peak_checks(peaks: Sequence[LayerPeak], dtype: str) -> list[Check]:
    """That no activation overflows: always told in fp16, else where one does.

    >>> [check.passed for check in peak_checks([LayerPeak("layers.0", 7e4)], "fp16")]
    [False]
    >>> peak_checks([LayerPeak("layers.0", 7e4)], "bf16")
    []
    """
    peak = worst_peak(peaks, dtype)
    if peak is None:
        return []
    passed, limit = peak.magnitude <= _limit(dtype), f"<= {FP16_LIMIT:.0f} (else export bf16)"
    if passed and dtype != "fp16":
        return []
    if dtype != "fp16":
        limit = f"<= {SQUARED_LIMIT:.1e} (beyond, its square overflows in {dtype}'s norms, which then give 0 or NaN)"
    shown = f"{peak.magnitude:.0f}" if peak.magnitude < 1e9 else f"{peak.magnitude:.1e}"
    return [Check(name=f"largest activation, {peak.layer}", measured=shown, required=limit, passed=passed)]


def finite_checks(
    names: Sequence[str], sequences: Sequence[TokenSequence], results: Mapping[str, Outputs]
) -> list[Check]:
    """That all results are numbers: told where some are not.

    `results` are outputs by who computed them, [P] or [P, labels] each, P the scored positions of all sequences.

    >>> sequence = TokenSequence(ids=np.array([5]), reads={"score": np.array([0])})
    >>> results = {"ort-cpu": {"score": np.array([1.0, np.nan], np.float32)}}
    >>> [check.measured for check in finite_checks(["score"], [sequence, sequence], results)]
    ['1 of 2 NaN or infinite, first in conversation 1']
    """
    owners = np.repeat(np.arange(len(sequences)), [sequence.position_count for sequence in sequences])
    checks = []
    for who, outputs in results.items():
        for name in names:
            rows = outputs[name].reshape(len(owners), -1)
            wrong = np.flatnonzero(~np.isfinite(rows).all(axis=1))
            if len(wrong):
                measured = f"{len(wrong)} of {len(rows)} NaN or infinite, first in conversation {owners[wrong[0]]}"
                checks.append(Check(name=f"{name}: finite ({who})", measured=measured, required="all", passed=False))
    return checks


def difference_checks(names: Sequence[str], sequences: Sequence[TokenSequence], engine: Outputs) -> list[Check]:
    """That different conversations have different results: told where all have the same.

    >>> a, b = (TokenSequence(ids=np.array([token]), reads={"score": np.array([0])}) for token in (5, 6))
    >>> [check.measured for check in difference_checks(["score"], [a, b], {"score": np.array([0.5, 0.5], np.float32)})]
    ['all 2 results are 0.5']
    """
    if len({sequence.ids.tobytes() for sequence in sequences}) < 2:
        return []
    checks = []
    for name in names:
        rows = engine[name].reshape(len(engine[name]), -1)
        if np.isfinite(rows).all() and bool((rows == rows[0]).all()):
            value = ", ".join(f"{number:.6g}" for number in rows[0][:3].tolist())
            measured = f"all {len(rows)} results are {value}"
            checks.append(
                Check(name=f"{name}: not all the same", measured=measured, required="different ones", passed=False)
            )
    return checks


def _limit(dtype: str) -> float:
    return FP16_LIMIT if dtype == "fp16" else SQUARED_LIMIT
