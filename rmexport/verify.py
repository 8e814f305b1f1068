"""`rmexport verify`: scores a set of conversations with the bundle's engine and with transformers, and judges both.

A quantized bundle is judged by what quantization costs: its scores against those of the same bundle unquantized.

Writes `parity.json` (what was measured) and `golden.jsonl` (the conversations' ids with the reference's scores, a file
that `score` reads too) into the bundle.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rmexport.bundle_writer import replace_file
from rmexport.checkpoint import Checkpoint, open_checkpoint
from rmexport.errors import OptionError, VerificationError
from rmexport.options import ExportOptions
from rmexport.parity import Check, Values, fp32_check, half_checks
from rmexport.progress import Watcher
from rmexport.quality import Pairs, Quality, measure_quality, quality_checks, read_budget
from rmexport.reference import ReferenceScores, arithmetic, reference_device, reference_of, versions
from rmexport.reference_cache import open_cache
from rmexport.reference_key import read_key
from rmexport.soundness import difference_checks, finite_checks, peak_checks, worst_peak
from rmexport.unquantized import Counterpart, unquantized_bundle
from rmexport.verification_input import Conversations, read_conversations
from rmexport.verification_set import verification_records
from rmexport.version import __version__
from rmexport.yardstick import ScoreOrigin, compute_yardsticks
from rmruntime import DeviceLimit, InputError, RewardModel, ScoreOptions
from rmruntime.backends.base import Precision
from rmruntime.manifest import Manifest, canonical
from rmruntime.option_checks import BYTES, TOKENS, Limit, check_fields
from rmruntime.record_files import read_records
from rmruntime.records import Request, parse_record
from rmruntime.scores import Arrays
from rmruntime.sequences import TokenSequence

FEW_SEQUENCES = 100
CONVERSATIONS = Limit(1, 1_000_000, why="more than the built-in set has different ones")
REFERENCE = "reference"  # what a quantized bundle may be compared with where no engine runs the unquantized one


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """`data` a file of records, else a built-in seeded set of `conversations`; the engine's options as for scoring.

    `reference_device` is where torch computes the reference: cpu, cuda or cuda:N. `reference_cache` is the folder that
    keeps what it computed, "off" for none, None for the user's cache folder (`rmexport.reference_cache`).

    For quantized bundles alone: `quality` is a level or a budget (`rmexport.quality`), "normal" by default; `against`
    is the folder of the unquantized bundle, or "reference" for transformers in fp32, None for one that is exported
    meanwhile.
    """

    data: str | Path | None = None
    device: str = "auto"
    precision: Precision = "auto"
    conversations: int = 256
    recipe: str | None = None
    max_batch_tokens: int | None = None
    dialect: str | None = None
    stage_memory: int | Literal["auto"] | None = None
    reference_device: str = "cpu"
    reference_cache: str | None = None
    quality: str | None = None
    against: str | None = None
    write: bool = True

    def __post_init__(self) -> None:
        """Raises OptionError for a value that is none of the choices, of another type, or out of range."""
        limits = {"conversations": CONVERSATIONS, "max_batch_tokens": TOKENS, "stage_memory": BYTES}
        check_fields(self, limits, error=OptionError)
        read_budget(self.quality or "normal")


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was measured and whether the bundle passes; the peak is None where no layer was watched (encoders).

    A `peak_layer` without a `peak_magnitude` has activations that are not finite.
    `left_out` are the built-in records that are longer than the model's limit. `quality` has an entry an output where
    the bundle is `quantized`, compared with what `against` says. `engine_reason`: why this engine was chosen.
    `references` say where transformers' scores came from, which `parity.json` leaves out: they are the same.
    """

    passed: bool
    dtype: str
    backend: str
    precision: str
    sequences: int
    left_out: int
    reads: int
    checks: tuple[Check, ...]
    peak_layer: str | None
    peak_magnitude: float | None
    versions: Mapping[str, str]
    quantized: str | None = None
    against: str | None = None
    quality: tuple[Quality, ...] = ()
    engine_reason: str = ""
    references: tuple[ScoreOrigin, ...] = ()


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
    with _load(bundle, options) as model:
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
        other = Counterpart(bundle=Path(bundle), manifest=manifest, checkpoint=checkpoint, exported=exported)
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
        _write(Path(bundle), manifest, report, given.sequences, exact)
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


def _load(bundle: str | Path, options: VerifyOptions) -> RewardModel:
    return RewardModel.load(
        bundle,
        device=options.device,
        precision=options.precision,
        dialect=options.dialect,
        stage_memory=options.stage_memory,
    )


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
    other: Counterpart,
    options: VerifyOptions,
    backend: str,
    sequences: Sequence[TokenSequence],
    watcher: Watcher,
) -> Arrays | None:
    """What the same engine gives without quantization; None where the reference is to stand for it."""
    if options.against == REFERENCE:
        return None
    device = backend + "".join(options.device.partition(":")[1:])  # the engine that ran, with the user's number
    with (
        unquantized_bundle(other, options.against) as folder,
        RewardModel.load(folder, device=device, precision=options.precision, dialect=options.dialect) as model,
    ):
        return _engine_outputs(model, sequences, ScoreOptions(max_batch_tokens=options.max_batch_tokens), watcher)


def _quality_against(
    other: Counterpart,
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


def _write(
    bundle: Path,
    manifest: Manifest,
    report: Report,
    sequences: Sequence[TokenSequence],
    reference: ReferenceScores,
) -> None:
    measured = json.loads(json.dumps(asdict(report)))
    del measured["references"]  # where scores came from changes nothing
    cuts = np.cumsum([len(next(iter(s.reads.values()))) for s in sequences])[:-1]
    rows = {name: np.split(values, cuts) for name, values in reference.outputs.items()}
    lines = []
    for i, sequence in enumerate(sequences):
        expected = {name: parts[i].tolist() for name, parts in rows.items()}
        if not all(np.isfinite(parts[i]).all() for parts in rows.values()):
            continue  # JSON has no word for it, and no engine should give it
        lines.append({"id": i, "input_ids": sequence.ids.tolist(), "expected": expected})
    body = "".join(json.dumps(line) + "\n" for line in lines)
    measured["manifest"] = _digest(json.loads(canonical(asdict(manifest))))
    measured["golden"] = hashlib.sha256(body.encode()).hexdigest()
    replace_file(bundle, "golden.jsonl", body.encode())
    replace_file(
        bundle, "parity.json", (json.dumps({**measured, "digest": _digest(measured)}, indent=1) + "\n").encode()
    )


def _digest(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical(data)).hexdigest()


def table(report: Report) -> str:
    """The report as aligned text."""
    rows = [("check", "measured", "required", "")]
    rows += [(c.name, c.measured, c.required, "pass" if c.passed else "FAIL") for c in report.checks]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * w for w in widths).rstrip())
    kind = f"{report.dtype} bundle" + (f" with {report.quantized} layers" if report.quantized else "")
    head = (
        f"{kind} on {report.backend} computing in {report.precision}: {report.sequences} sequences, "
        f"{report.reads} results{_largest(report)}"
    )
    if report.engine_reason:
        head += f"\nengine {report.backend}, because {report.engine_reason}"
    if report.dtype != "fp32" and report.sequences < FEW_SEQUENCES:
        head += f"\nfew sequences: a mean and a rank over fewer than {FEW_SEQUENCES} pass or fail by chance"
    for found in report.quality:
        head += (
            f"\n{found.output}: against {report.against}; from transformers in fp32 it errs "
            f"{found.reference_error:.2e} on average, without quantization {found.unquantized_error:.2e}"
        )
    head += f"\n{_origins(report)}"
    if report.left_out:
        head += f"\nleft out: {report.left_out} built-in conversations longer than the model's limit; see --data"
    return "\n".join([head, "", *lines, "", "PASSED" if report.passed else "FAILED"])


def _origins(report: Report) -> str:
    """Where transformers' scores came from, in words."""
    origins = []
    for found in report.references:
        since = datetime.fromisoformat(found.kept_since).strftime("%Y-%m-%d %H:%M UTC") if found.kept_since else ""
        parts = [f"{found.kept} kept since {since}"] if found.kept else []
        parts += [f"{found.computed} computed now"] if found.computed else []
        origins.append(f"{found.dtype} {', '.join(parts)}")
    return f"transformers' scores: {'; '.join(origins)}"


def _largest(report: Report) -> str:
    if report.peak_layer is None:
        return ""
    if report.peak_magnitude is None:
        return f"; activations that are not finite in {report.peak_layer}"
    shown = f"{report.peak_magnitude:.1f}" if report.peak_magnitude < 1e9 else f"{report.peak_magnitude:.1e}"
    return f"; largest activation {shown} in {report.peak_layer}"


def report_json(report: Report) -> str:
    """The report as JSON."""
    return json.dumps(asdict(report), indent=1)
