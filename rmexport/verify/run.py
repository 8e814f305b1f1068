"""`rmexport verify`: scores a set of conversations with the bundle's engine and with transformers, and judges both.

A quantized bundle is judged by what quantization costs: its scores against those of the same bundle unquantized.

Writes `parity.json` (what was measured) and `golden.jsonl` (the conversations' ids with the reference's scores, a file
that `score` reads too) into the bundle.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmexport.checkpoint import Checkpoint, open_checkpoint
from rmexport.errors import OptionError, VerificationError
from rmexport.options import ExportOptions
from rmexport.output.progress import Watcher
from rmexport.verify.baseline_bundle import BaselineExport, unquantized_bundle
from rmexport.verify.conversations import Conversations, read_conversations, verification_records
from rmexport.verify.options import REFERENCE, VerifyOptions
from rmexport.verify.parity import Check, Values, fp32_check, half_checks
from rmexport.verify.quality import Pairs, Quality, measure_quality, quality_checks, read_budget
from rmexport.verify.reference import ReferenceScores, arithmetic, reference_device, reference_of, versions
from rmexport.verify.reference_cache import open_cache
from rmexport.verify.reference_key import read_key
from rmexport.verify.report import Report, write_report
from rmexport.verify.soundness import difference_checks, finite_checks, peak_checks, worst_peak
from rmexport.verify.yardstick import compute_yardsticks
from rmexport.version import __version__
from rmruntime import DeviceLimit, InputError, RewardModel, ScoreOptions
from rmruntime.bundle.manifest import Manifest
from rmruntime.records import Request, parse_record
from rmruntime.records.reader import read_records
from rmruntime.scores import Arrays
from rmruntime.sequences import TokenSequence


@dataclass(frozen=True, kw_only=True)
class _EngineRun:
    """What the bundle's engine gave, and which it was."""

    outputs: Arrays
    backend: str
    precision: str
    reason: str


def verify(
    bundle: str | Path, checkpoint: str, options: VerifyOptions | None = None, watcher: Watcher | None = None
) -> Report:
    """Measure the parity gate of a bundle against its checkpoint.

    The `watcher`, nobody by default, is told what the reference will cost and shown how far it is. Raises
    VerificationError when bundle and checkpoint do not belong together, the checkpoint changes meanwhile, or the data
    holds a record that cannot be scored; CheckpointError, BundleError and BackendError as their sources do.
    """
    options, watcher = options or VerifyOptions(), watcher or Watcher()
    torch_device = reference_device(options.reference_device)  # its errors before anything is loaded
    cache = open_cache(options.reference_cache, watcher.notify)
    with RewardModel.load(bundle, options.engine) as model:
        manifest = model.manifest
        _check_options(manifest, options)
        source, exported = _source(manifest, checkpoint, options)
        reference = reference_of(source, exported, torch_device)
        key = read_key(source, exported, arithmetic(torch_device))
        requests = _requests(manifest, options)
        score_options = ScoreOptions(max_batch_tokens=options.max_batch_tokens)
        given = read_conversations(model, requests, score_options, built_in=options.data is None)
        engine = _run_engine(model, given.sequences, score_options, watcher)
    yardsticks = compute_yardsticks(reference, given.sequences, _dtypes(manifest), key, cache, watcher)
    exact = yardsticks["fp32"].scores
    quality: list[Quality] = []
    if manifest.quantization is None:
        checks = _checks(manifest, engine.outputs, yardsticks[manifest.dtype].scores, exact)
    else:
        other = BaselineExport(bundle=Path(bundle), manifest=manifest, checkpoint=checkpoint, exported=exported)
        quality = _quality_against(other, options, engine, given, exact, watcher)
        budget = read_budget(options.quality or "normal")
        checks = [check for found in quality for check in quality_checks(found, budget)]
    results = {f"transformers in {dtype}": yardstick.scores.outputs for dtype, yardstick in yardsticks.items()}
    checks += _sound_checks(manifest, given.sequences, {engine.backend: engine.outputs, **results})
    checks += peak_checks(exact.peaks, manifest.dtype)
    peak = worst_peak(exact.peaks, manifest.dtype)
    report = Report(
        passed=all(check.passed for check in checks),
        dtype=manifest.dtype,
        backend=engine.backend,
        precision=engine.precision,
        engine_reason=engine.reason,
        sequences=len(given.sequences),
        left_out=given.left_out,
        reads=len(next(iter(engine.outputs.values()))),
        checks=tuple(checks),
        peak_layer=peak.layer if peak else None,
        peak_magnitude=peak.magnitude if peak and math.isfinite(peak.magnitude) else None,
        versions={"rmexport": __version__, **versions(torch_device)},
        quantized=manifest.quantization.scheme if manifest.quantization else None,
        against=_against(manifest, options),
        quality=tuple(quality),
        references=tuple(yardstick.origin for yardstick in yardsticks.values()),
    )
    if options.write:
        write_report(Path(bundle), manifest, report, given.sequences, exact)
    return report


def _source(manifest: Manifest, checkpoint: str, options: VerifyOptions) -> tuple[Checkpoint, ExportOptions]:
    """The checkpoint that the bundle was made from, and the choices of its export."""
    # A folder has no revisions, be it a copy of the Hub's.
    revision = None if Path(checkpoint).is_dir() else manifest.source.revision
    source = open_checkpoint(checkpoint, revision=revision)
    _check_same_source(manifest, source)
    return source, replace(_export_options(manifest, options), revision=revision)


def _run_engine(
    model: RewardModel, sequences: Sequence[TokenSequence], options: ScoreOptions, watcher: Watcher
) -> _EngineRun:
    return _EngineRun(
        outputs=_engine_outputs(model, sequences, options, watcher),
        backend=model.backend,
        precision=model.precision,
        reason=model.backend_reason,
    )


def _dtypes(manifest: Manifest) -> tuple[str, ...]:
    """The arithmetics of the reference: fp32, and what transformers has for the bundle's dtype where that is judged."""
    own = () if manifest.quantization is not None or manifest.dtype == "fp32" else (manifest.dtype,)
    return ("fp32", *own)


def _export_options(manifest: Manifest, options: VerifyOptions) -> ExportOptions:
    """The choices of the export, less quantization; a recipe that was a file must be given again if it has moved."""
    given: dict[str, Any] = {name: value for name, value in manifest.options.items() if name != "quantize"}
    if options.recipe is not None:
        given["recipe"] = options.recipe
    return ExportOptions(**given)


def _check_same_source(manifest: Manifest, source: Checkpoint) -> None:
    stated = {f.name: f.size for f in manifest.source.files}
    found = {f.name: f.size for f in source.source_files}
    if stated != found:
        differing = sorted(name for name in stated.keys() | found.keys() if stated.get(name) != found.get(name))
        raise VerificationError(
            f"{source.folder} is not the checkpoint this bundle was made from: {', '.join(differing)} "
            "differ; give the original with --checkpoint, or export the bundle again"
        )


def _requests(manifest: Manifest, options: VerifyOptions) -> list[Request]:
    if options.data is None:
        steps = any(output.per == "step" for output in manifest.outputs)
        pairs = manifest.format.preference_template is not None
        return [parse_record(r) for r in verification_records(options.conversations, steps=steps, pairs=pairs)]
    requests = []
    for line, request in read_records(options.data):
        if isinstance(request, InputError):
            raise VerificationError(f"{options.data}, record {line}: {request}")
        requests.append(request)
    if not requests:
        raise VerificationError(f"{options.data} holds no records; expected at least one conversation")
    return requests


def _check_options(manifest: Manifest, options: VerifyOptions) -> None:
    if manifest.quantization is None and (options.quality or options.against):
        given = "--quality" if options.quality else "--against"
        raise OptionError(f"{given} is about quantized bundles; this one is not, and passes or fails the parity gate")


def _against(manifest: Manifest, options: VerifyOptions) -> str | None:
    """In words, what quality is measured against."""
    if manifest.quantization is None:
        return None
    if options.against == REFERENCE:
        return "transformers in fp32"
    return options.against or f"the {manifest.dtype} bundle of the same checkpoint"


def _counterpart_outputs(
    other: BaselineExport,
    options: VerifyOptions,
    backend: str,
    sequences: Sequence[TokenSequence],
    watcher: Watcher,
) -> Arrays | None:
    """What the same engine gives without quantization; None where the reference is to stand for it."""
    if options.against == REFERENCE:
        return None
    device = backend + "".join(options.engine.device.partition(":")[1:])  # the engine that ran, with the user's number
    with (
        unquantized_bundle(other, options.against) as folder,
        RewardModel.load(folder, replace(options.engine, device=device).unstaged()) as model,
    ):
        return _engine_outputs(model, sequences, ScoreOptions(max_batch_tokens=options.max_batch_tokens), watcher)


def _quality_against(
    other: BaselineExport,
    options: VerifyOptions,
    engine: _EngineRun,
    given: Conversations,
    exact: ReferenceScores,
    watcher: Watcher,
) -> list[Quality]:
    """What quantization costs, compared with the unquantized bundle or, where that is asked for, the reference."""
    base = _counterpart_outputs(other, options, engine.backend, given.sequences, watcher) or exact.outputs
    return _quality(other.manifest, engine.outputs, base, exact.outputs, given.pairs)


def _quality(manifest: Manifest, engine: Arrays, base: Arrays, reference: Arrays, pairs: Pairs) -> list[Quality]:
    """Of every column of the outputs that are compared."""
    found = []
    for name in _compared(manifest):
        labels = next((o.labels for o in manifest.outputs if o.name == name), None) or (None,)
        columns = [x[name].astype(np.float64).reshape(-1, len(labels)) for x in (engine, base, reference)]
        for i, label in enumerate(labels):
            title = name if label is None else f"{name} {label}"
            found.append(measure_quality(title, columns[0][:, i], columns[1][:, i], columns[2][:, i], pairs))
    return found


def _engine_outputs(
    model: RewardModel, sequences: Sequence[TokenSequence], options: ScoreOptions, watcher: Watcher
) -> dict[str, NDArray[np.float32]]:
    with watcher.bars("engine", len(sequences), "seq") as advance:
        outcomes, _ = model.outputs(sequences, options, advance)
    parts: list[Arrays] = []
    for outcome in outcomes:
        if isinstance(outcome, DeviceLimit):
            raise VerificationError(str(outcome)) from outcome
        parts.append(outcome)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _checks(
    manifest: Manifest, engine: Mapping[str, NDArray[np.float32]], own: ReferenceScores, reference: ReferenceScores
) -> list[Check]:
    checks: list[Check] = []
    for name in _compared(manifest):
        values: list[Values] = [x[name].astype(np.float64).ravel() for x in (engine, own.outputs, reference.outputs)]
        finite = np.isfinite(values).all(axis=0)  # the others have a check of their own
        values = [value[finite] for value in values]
        if not finite.any():
            continue
        if manifest.dtype == "fp32":
            checks.append(fp32_check(name, values[0], values[2]))
        else:
            checks += half_checks(name, manifest.dtype, *values)
    return checks


def _sound_checks(
    manifest: Manifest, sequences: Sequence[TokenSequence], results: Mapping[str, Mapping[str, NDArray[np.float32]]]
) -> list[Check]:
    """That results are numbers, and scores not all the same; `results` begin with the bundle's."""
    names = _compared(manifest)
    scored = [name for name in names if name in ("logit", manifest.score)] or names
    bundle = next(iter(results.values()))
    return finite_checks(names, sequences, results) + difference_checks(scored, sequences, bundle)


def _compared(manifest: Manifest) -> list[str]:
    """Outputs the gate is about: probabilities as their logits, the parts of a sum only in fp32."""
    names = [output.name for output in manifest.outputs]
    if "logit" in names:
        return ["logit"]
    if manifest.score is None or (manifest.dtype == "fp32" and manifest.quantization is None):
        return names
    return [manifest.score]
