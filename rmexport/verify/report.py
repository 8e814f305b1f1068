"""What `rmexport verify` found: as text, as JSON, and as the files that it leaves in the bundle."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from rmexport.output.atomic_folder import replace_file
from rmexport.verify.parity import Check
from rmexport.verify.quality import Quality
from rmexport.verify.reference import ReferenceScores
from rmexport.verify.yardstick import ScoreOrigin
from rmruntime.bundle.manifest import Manifest, canonical, manifest_data
from rmruntime.sequences import TokenSequence

FEW_SEQUENCES = 100


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was measured and whether the bundle passes; the peak is None where no layer was watched (encoders).

    A `peak_layer` without a `peak_magnitude` has activations that are not finite. `reads` is the number of scored
    positions of all `sequences`; `left_out` of the built-in conversations are longer than the model's limit. `quality`
    has an entry per output where the bundle is `quantized`, compared with what `against` names. `engine_reason` says
    why this engine was chosen. `references` say where transformers' scores came from, which `parity.json` leaves out:
    they are the same.
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


def write_report(
    bundle: Path,
    manifest: Manifest,
    report: Report,
    sequences: Sequence[TokenSequence],
    reference: ReferenceScores,
) -> None:
    """Write `parity.json` and `golden.jsonl` into the bundle. Raises WriteError."""
    measured = json.loads(json.dumps(asdict(report)))
    del measured["references"]  # where scores came from changes nothing
    cuts = np.cumsum([sequence.position_count for sequence in sequences])[:-1]
    rows = {name: np.split(values, cuts) for name, values in reference.outputs.items()}
    lines = []
    for i, sequence in enumerate(sequences):
        expected = {name: parts[i].tolist() for name, parts in rows.items()}
        if not all(np.isfinite(parts[i]).all() for parts in rows.values()):
            continue  # JSON has no word for it, and no engine should return it
        lines.append({"id": i, "input_ids": sequence.ids.tolist(), "expected": expected})
    body = "".join(json.dumps(line) + "\n" for line in lines)
    measured["manifest"] = _digest(json.loads(canonical(manifest_data(manifest))))
    measured["golden"] = hashlib.sha256(body.encode()).hexdigest()
    replace_file(bundle, "golden.jsonl", body.encode())
    replace_file(
        bundle, "parity.json", (json.dumps({**measured, "digest": _digest(measured)}, indent=1) + "\n").encode()
    )


def _digest(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical(data)).hexdigest()


def table(report: Report) -> str:
    """The report as aligned text.

    >>> check = Check(name="score: error in fp32", measured="3.00e-07", required="<= 1e-04", passed=True)
    >>> report = Report(
    ...     passed=True, dtype="fp32", backend="ort-cpu", precision="fp32", sequences=2, left_out=0, reads=2,
    ...     checks=(check,), peak_layer=None, peak_magnitude=None, versions={},
    ... )
    >>> print(table(report).splitlines()[-3])
    score: error in fp32  3.00e-07  <= 1e-04  pass
    """
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
