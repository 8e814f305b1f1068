"""`rmexport verify`: scores a set of conversations with the bundle's engine and with transformers, and judges both.

A quantized bundle is judged by what quantization costs: its scores against those of the same bundle unquantized.

Writes `parity.json` (what was measured) and `golden.jsonl` (the conversations' ids with the reference's scores, a file
that `score` reads too) into the bundle.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from rmexport.output.progress import Watcher
from rmexport.verify.baseline_bundle import BaselineExport
from rmexport.verify.bundle_source import open_source
from rmexport.verify.cached_run import run_cached
from rmexport.verify.conversations import read_conversations
from rmexport.verify.engine_run import run_baseline, run_engine
from rmexport.verify.gate import Measurement, parity_checks, quantization_quality, reference_dtypes, soundness_checks
from rmexport.verify.options import REFERENCE, VerifyOptions
from rmexport.verify.parity import Check
from rmexport.verify.quality import Quality, quality_checks, read_budget
from rmexport.verify.reference import arithmetic, reference_device, reference_of, versions
from rmexport.verify.reference_cache import open_cache
from rmexport.verify.reference_key import read_key
from rmexport.verify.report import Report, write_report
from rmexport.verify.soundness import worst_peak
from rmexport.verify.yardstick import compute_yardsticks
from rmexport.version import __version__
from rmruntime import RewardModel


def verify(
    bundle: str | Path, checkpoint: str, options: VerifyOptions | None = None, watcher: Watcher | None = None
) -> Report:
    """Measure the parity gate of a bundle against its checkpoint.

    The `watcher`, nobody by default, is told what the reference will cost and shown how far it is. Raises
    VerificationError when bundle and checkpoint do not belong together, the checkpoint changes meanwhile, or the data
    holds a record that cannot be scored; CheckpointError, BundleError and BackendError as their sources do.
    """
    options, watcher = options or VerifyOptions(), watcher or Watcher()
    device = reference_device(options.reference_device)  # its errors before anything is loaded
    cache = open_cache(options.reference_cache, watcher.notify)
    with RewardModel.load(bundle, options.engine) as model:
        manifest = model.manifest
        source = open_source(manifest, checkpoint, options)
        reference = reference_of(source.checkpoint, source.export_options, device)
        key = read_key(source.checkpoint, source.export_options, arithmetic(device))
        conversations = read_conversations(model, options)
        engine = run_engine(model, conversations.sequences, options, watcher)
    cached = run_cached(bundle, engine, conversations.sequences, options)
    dtypes = reference_dtypes(manifest)
    yardsticks = compute_yardsticks(reference, conversations.sequences, dtypes, key, cache, watcher)
    measured = Measurement(
        manifest=manifest, conversations=conversations, engine=engine, yardsticks=yardsticks, cached=cached
    )
    quantized = BaselineExport(
        bundle=Path(bundle), manifest=manifest, checkpoint=checkpoint, exported=source.export_options
    )
    quality = _quality(measured, quantized, options, watcher)
    report = _report(measured, quality, options, {"rmexport": __version__, **versions(device)})
    if options.write:
        write_report(Path(bundle), manifest, report, measured.sequences, measured.reference)
    return report


def _quality(
    measured: Measurement, quantized: BaselineExport, options: VerifyOptions, watcher: Watcher
) -> list[Quality]:
    """What quantization costs, compared with the unquantized bundle or, where that is asked for, the reference."""
    if measured.manifest.quantization is None:
        return []
    if options.against == REFERENCE:
        return quantization_quality(measured, measured.reference.outputs)
    unquantized = run_baseline(quantized, measured.engine.backend, measured.sequences, options, watcher)
    return quantization_quality(measured, unquantized.outputs)


def _report(
    measured: Measurement,
    quality: Sequence[Quality],
    options: VerifyOptions,
    versions: Mapping[str, str],
) -> Report:
    """The judgement: all checks, and what they were measured with."""
    manifest, engine = measured.manifest, measured.engine
    checks = _checks(measured, quality, options)
    peak = worst_peak(measured.reference.peaks, manifest.dtype)
    return Report(
        passed=all(check.passed for check in checks),
        dtype=manifest.dtype,
        backend=engine.backend,
        precision=engine.precision,
        engine_reason=engine.reason,
        sequences=len(measured.sequences),
        left_out=measured.conversations.left_out,
        reads=len(next(iter(engine.outputs.values()))),
        checks=tuple(checks),
        peak_layer=peak.layer if peak else None,
        peak_magnitude=peak.magnitude if peak and math.isfinite(peak.magnitude) else None,
        versions=versions,
        quantized=manifest.quantization.scheme if manifest.quantization else None,
        against=_against(measured, options),
        quality=tuple(quality),
        references=tuple(yardstick.origin for yardstick in measured.yardsticks.values()),
    )


def _checks(measured: Measurement, quality: Sequence[Quality], options: VerifyOptions) -> list[Check]:
    if measured.manifest.quantization is None:
        return [*parity_checks(measured), *soundness_checks(measured)]
    budget = read_budget(options.quality or "normal")
    cost = [check for found in quality for check in quality_checks(found, budget)]
    return [*cost, *soundness_checks(measured)]


def _against(measured: Measurement, options: VerifyOptions) -> str | None:
    """In words, what quality is measured against."""
    if measured.manifest.quantization is None:
        return None
    if options.against == REFERENCE:
        return "transformers in fp32"
    return options.against or f"the {measured.manifest.dtype} bundle of the same checkpoint"
