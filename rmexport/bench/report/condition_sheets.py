"""The page's tables of the conditions of a run: machine, bundle, workload, settings, contestants and software."""

import json
from collections.abc import Mapping
from typing import Any

from rmexport.bench.report.fields import Report, at, contestants, number, records, text
from rmexport.bench.report.quantities import TIMES, bytes_text, count_text, figure, percent_text, short
from rmexport.bench.report.sheets import Sheet, facts_sheet, long_cell, name_cell, text_cell

_RAW = ("samples", "repeats")  # per-request samples, which only report.json holds


def condition_sheets(report: Report) -> list[Sheet]:
    """Every table of conditions that has a row.

    >>> [sheet.title for sheet in condition_sheets({"machine": {"cpu": "EPYC"}})]
    ['Machine', 'Run']
    """
    made = (machine(report), bundle(report), workload(report), settings(report), setups(report), software(report))
    return [sheet for sheet in made if sheet.rows]


def machine(report: Report) -> Sheet:
    """The table of the machine: hardware, system, load, and the measured peak of matrix products.

    >>> [cell.text for cell in machine({"machine": {"cpu": "EPYC", "cores": 2}}).rows[0]]
    ['CPU', 'EPYC']
    """
    m = at(report, "machine")
    facts = [
        ("CPU", text(m, "cpu")),
        ("cores", figure(at(m, "cores"))),
        ("CPU flags", _listed(at(m, "flags"))),
        ("memory", bytes_text(number(m, "memory_bytes"))),
        ("NUMA nodes", figure(at(m, "numa_nodes"))),
        ("GPUs", _listed(at(m, "gpus")) or "none"),
        ("operating system", text(m, "os")),
        ("Python", text(m, "python")),
        ("load average before the run", figure(at(m, "load_before"))),
    ]
    return facts_sheet("Machine", facts + [("Gemm peak", _peak(peak)) for peak in peaks(report)])


def peaks(report: Report) -> list[Mapping[str, Any]]:
    """The report's measured peaks of matrix products: `gemm_peaks`, or else the single `gemm_peak`.

    >>> peaks({"gemm_peak": {"dtype": "bf16"}})
    [{'dtype': 'bf16'}]
    """
    single = at(report, "gemm_peak")
    return records(report, "gemm_peaks") or ([single] if isinstance(single, Mapping) else [])


def _peak(peak: Mapping[str, Any]) -> str:
    shape = TIMES.join(str(n) for n in at(peak, "shape") or [])
    words = [f"{short(number(peak, 'flops'), 1e12)} TFLOP/s in {text(peak, 'dtype') or '?'}"]
    detail = ", ".join(w for w in (shape, text(peak, "with")) if w)
    return " ".join([*words, f"({detail})"] if detail else words)


def bundle(report: Report) -> Sheet:
    """The table of the bundle: name, hash, sizes and source.

    >>> [cell.text for cell in bundle({"bundle": {"parameters": 8.03e9}}).rows[0]]
    ['parameters', '8.03B']
    """
    b = at(report, "bundle")
    facts = [
        ("name", text(b, "name")),
        ("SHA-256 of the manifest", text(b, "manifest_sha256")),
        ("model type", text(b, "model_type")),
        ("parameters", count_text(number(b, "parameters"))),
        ("matmul parameters", count_text(number(b, "matmul_parameters"))),
        ("head", text(b, "head")),
        ("dtype", text(b, "dtype")),
        ("quantized layers", text(b, "quantized")),
    ]
    return facts_sheet("Bundle", facts + [(f"source: {k}", v) for k, v in flat(at(b, "source"))])


def workload(report: Report) -> Sheet:
    """The table of the workload: name, hash, seed, sizes, and the share of tokens in shared prefixes.

    >>> [cell.text for cell in workload({"workload": {"tokens": 4096}}).rows[0]]
    ['tokens', '4,096']
    """
    w = at(report, "workload")
    lengths = [
        f"{p} {figure(v)}" for p in ("min", "p50", "mean", "p90", "max") if (v := at(w, "lengths", p)) is not None
    ]
    facts = [
        ("name", text(w, "name")),
        ("kind", text(w, "kind")),
        ("SHA-256", text(w, "sha256")),
        ("seed", figure(at(w, "seed"))),
        ("records", figure(at(w, "records"))),
        ("sequences", figure(at(w, "sequences"))),
        ("tokens", figure(at(w, "tokens"))),
        ("distinct tokens (shared prefixes once)", figure(at(w, "distinct_tokens"))),
        ("share of tokens that are shared", percent_text(number(w, "shared_share"))),
        ("lengths, tokens", ", ".join(lengths)),
    ]
    return facts_sheet("Workload", facts)


def settings(report: Report) -> Sheet:
    """The table of the run: when, how long, and its options.

    >>> [cell.text for cell in settings({"settings": {"repeats": 3}}).rows[1]]
    ['repeats', '3']
    """
    s = at(report, "settings")
    named = {
        "warmup": "requests of a warm-up window, not counted",
        "repeats": "repeats",
        "threads": "threads (0: the engine decides)",
        "max_batch_tokens": "rmexport's batch, at most tokens",
        "peer_batch": "peers' batch, conversations",
        "seed": "seed",
        "slo_ms": "SLO, ms",
        "duration_s": "a repeat or load point takes at most, s",
    }
    known = [(label, figure(at(s, key))) for key, label in named.items()]
    others = [(key.replace("_", " "), value) for key, value in flat(s) if key.partition(".")[0] not in named]
    facts = [
        ("started", text(report, "started")),
        ("the whole run took", short(number(report, "seconds"), 1, "s")),
        ("arrivals", "single-stream: closed, one in flight; server: open, Poisson; offline: all at once"),
    ]
    return facts_sheet("Run", [*facts, *known, *others])


def setups(report: Report) -> Sheet:
    """The table of the contestants: precision, settings and error message.

    >>> [cell.text for cell in setups({"contestants": [{"name": "rmexport", "precision": "bf16"}]}).rows[0]]
    ['rmexport', 'bf16', '–', '–']
    """
    rows = tuple(
        (name_cell(c), text_cell(text(c.record, "precision")), long_cell(text(c.record, "settings")),
         long_cell(text(c.record, "message")))
        for c in contestants(report)
    )  # fmt: skip
    columns = ("contestant", "precision", "settings", "message")
    return Sheet(title="Contestants", columns=columns, rows=rows)


def software(report: Report) -> Sheet:
    """The table of package versions: one row per contestant, one column per package.

    >>> software({"contestants": [{"name": "rmexport", "versions": {"numpy": "2.4"}}]}).columns
    ('contestant', 'Python', 'numpy')
    """
    found = contestants(report)
    packages = sorted({p for c in found for p in at(c.record, "versions") or {}})
    rows = tuple(
        (
            name_cell(c),
            text_cell(text(c.record, "python")),
            *(text_cell(text(c.record, "versions", p)) for p in packages),
        )
        for c in found
        if at(c.record, "versions") or text(c.record, "python")
    )
    return Sheet(title="Software", columns=("contestant", "Python", *packages), rows=rows)


def flat(record: Any, prefix: str = "") -> list[tuple[str, str]]:
    """The values of nested objects, each with its dotted name.

    >>> flat({"source": {"repo": "org/model"}, "files": ["a", "b"]})
    [('source.repo', 'org/model'), ('files', 'a b')]
    """
    found: list[tuple[str, str]] = []
    for key, value in record.items() if isinstance(record, Mapping) else ():
        if isinstance(value, Mapping):
            found += flat(value, f"{prefix}{key}.")
        elif value is not None:
            found.append((f"{prefix}{key}", _listed(value) if isinstance(value, list | tuple) else str(value)))
    return found


def without_samples(report: Any) -> Any:
    """The report without its per-request samples, for the page's last section.

    >>> without_samples({"rate": 2.0, "samples": [[0.0, 0.5]]})
    {'rate': 2.0}
    """
    if isinstance(report, Mapping):
        kept = {key: value for key, value in report.items() if key not in _RAW or not isinstance(value, list)}
        return {key: without_samples(value) for key, value in kept.items()}
    return [without_samples(value) for value in report] if isinstance(report, list) else report


def fields_text(report: Report) -> str:
    """The report as indented JSON, without its samples.

    >>> fields_text({"seconds": 1.5, "repeats": []})
    '{\\n "seconds": 1.5\\n}'
    """
    return json.dumps(without_samples(report), indent=1, ensure_ascii=False)


def _listed(values: Any) -> str:
    if not isinstance(values, list | tuple):
        return ""
    words = [", ".join(f"{k} {v}" for k, v in flat(v)) if isinstance(v, Mapping) else str(v) for v in values]
    return "; ".join(words) if any("," in w for w in words) else " ".join(words)
