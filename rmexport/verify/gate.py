"""Which outputs are compared with which, and the checks that follow: parity, soundness, or what quantization costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rmexport.verify.cached_run import CachedRun, cached_checks
from rmexport.verify.conversations import Conversations
from rmexport.verify.engine_run import EngineRun
from rmexport.verify.parity import Check, Values, fp32_check, half_checks
from rmexport.verify.quality import Quality, measure_quality
from rmexport.verify.reference import ReferenceScores
from rmexport.verify.soundness import difference_checks, finite_checks, peak_checks
from rmexport.verify.yardstick import Yardstick
from rmruntime.bundle.manifest import Manifest
from rmruntime.scores import Arrays
from rmruntime.sequences import TokenSequence


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What the engine and transformers computed for the same conversations.

    `yardsticks` are transformers' scores by dtype: in fp32, and where parity is judged in the bundle's dtype too.
    `cached` is what came of cached prefixes, None where the engine has no cache.
    """

    manifest: Manifest
    conversations: Conversations
    engine: EngineRun
    yardsticks: Mapping[str, Yardstick]
    cached: CachedRun | None = None

    @property
    def sequences(self) -> Sequence[TokenSequence]:
        """The token sequences of the conversations."""
        return self.conversations.sequences

    @property
    def reference(self) -> ReferenceScores:
        """Transformers' scores in fp32, which errors are measured from."""
        return self.yardsticks["fp32"].scores


def reference_dtypes(manifest: Manifest) -> tuple[str, ...]:
    """The dtypes that transformers computes in: fp32, and the bundle's where parity is judged in it.

    >>> from types import SimpleNamespace
    >>> reference_dtypes(SimpleNamespace(dtype="bf16", quantization=None))
    ('fp32', 'bf16')
    """
    return ("fp32",) if manifest.quantization is not None else tuple(dict.fromkeys(("fp32", manifest.dtype)))


def compared_outputs(manifest: Manifest) -> list[str]:
    """The outputs that the gate is about: probabilities as their logits, the parts of a sum only in fp32.

    >>> from types import SimpleNamespace
    >>> outputs = [SimpleNamespace(name="score"), SimpleNamespace(name="rewards")]
    >>> compared_outputs(SimpleNamespace(outputs=outputs, score="score", dtype="bf16", quantization=None))
    ['score']
    """
    names = [output.name for output in manifest.outputs]
    if "logit" in names:
        return ["logit"]
    if manifest.score is None or (manifest.dtype == "fp32" and manifest.quantization is None):
        return names
    return [manifest.score]


def parity_checks(measured: Measurement) -> list[Check]:
    """The rules of `rmexport.verify.parity` for every compared output, over the results that all have as numbers."""
    dtype = measured.manifest.dtype
    transformers = measured.yardsticks[dtype].scores.outputs
    checks: list[Check] = []
    for name in compared_outputs(measured.manifest):
        outputs = (measured.engine.outputs, transformers, measured.reference.outputs)
        values: list[Values] = [output[name].astype(np.float64).ravel() for output in outputs]
        finite = np.isfinite(values).all(axis=0)  # the others have a check of their own
        engine, same_dtype, reference = (value[finite] for value in values)
        if not finite.any():
            continue
        if dtype == "fp32":
            checks.append(fp32_check(name, engine, reference))
        else:
            checks += half_checks(name, dtype, engine, same_dtype, reference)
    return checks


def soundness_checks(measured: Measurement) -> list[Check]:
    """That results are numbers, not all the same, the same after cached prefixes, and that no activation overflows."""
    manifest, engine = measured.manifest, measured.engine
    names = compared_outputs(manifest)
    scored = [name for name in names if name in ("logit", manifest.score)] or names
    transformers = {f"transformers in {dtype}": one.scores.outputs for dtype, one in measured.yardsticks.items()}
    return [
        *finite_checks(names, measured.sequences, {engine.backend: engine.outputs, **transformers}),
        *difference_checks(scored, measured.sequences, engine.outputs),
        *cached_checks(measured.cached),
        *peak_checks(measured.reference.peaks, manifest.dtype),
    ]


def quantization_quality(measured: Measurement, unquantized: Arrays) -> list[Quality]:
    """What quantization did to every column of the compared outputs, by the `unquantized` bundle's."""
    manifest = measured.manifest
    found = []
    for name in compared_outputs(manifest):
        labels = next((o.labels for o in manifest.outputs if o.name == name), None) or (None,)
        outputs = (measured.engine.outputs, unquantized, measured.reference.outputs)
        columns = [output[name].astype(np.float64).reshape(-1, len(labels)) for output in outputs]
        for i, label in enumerate(labels):
            title = name if label is None else f"{name} {label}"
            engine, baseline, reference = (column[:, i] for column in columns)
            found.append(measure_quality(title, engine, baseline, reference, measured.conversations.pairs))
    return found
