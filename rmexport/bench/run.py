"""One benchmark from start to report: starts the contestants, runs the scenarios and keeps the report."""

import hashlib
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rmexport.bench.contestants import Contestant, Entrant, entrants, start
from rmexport.bench.gemm_peak import matmul_parameters, measure_gemm_peaks
from rmexport.bench.machine import describe_machine
from rmexport.bench.options import BenchOptions
from rmexport.bench.report_file import ReportFile
from rmexport.bench.scenarios import RUN, Measurement, Tell
from rmexport.bench.workload import Workload, describe, make_workload
from rmexport.errors import BenchmarkError
from rmruntime.bundle import Bundle
from rmruntime.bundle.manifest import MANIFEST_NAME

SCHEMA_VERSION = 1
Report = dict[str, Any]
# Scenario, the measure that contestants are compared by, and whether more of it is better.
COMPARED = (
    ("single-stream", "latency_ms", False),
    ("server", "knee_rate", True),
    ("server", "achieved_rate", True),  # for a contestant that kept up with no rate, so that it has no knee
    ("offline", "conversations_per_s", True),
)


def run_bench(bundle_folder: str | Path, options: BenchOptions, output: Path, tell: Tell | None = None) -> Report:
    """Measure the bundle and its peers; returns the report, which is also saved in `output` after every finished part.

    `tell` is called with a description of each step. Ctrl-C ends the run, and the report then states that it is
    partial. Raises OptionError, BundleError, InputError or BenchmarkError before anything is loaded.
    """
    bundle = Bundle.open(bundle_folder)
    field = entrants(bundle, options)
    workload = make_workload(bundle, options)
    file = ReportFile(output)
    with tempfile.TemporaryDirectory(prefix="rmexport-bench-") as temporary:
        options = _with_cache(options, Path(temporary))
        bench = Benchmark(bundle, options, workload, file, tell or (lambda words: None))
        try:
            bench.measure(field)
        except KeyboardInterrupt:
            bench.report["stopped"] = "interrupted"
        finally:
            bench.close()
    return bench.report


def _with_cache(options: BenchOptions, temporary: Path) -> BenchOptions:
    """The options with a folder for converted checkpoints: the user's, else the temporary one of this run."""
    cache = options.peer_cache or temporary
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BenchmarkError(f"{cache} cannot be made ({error.strerror}): choose another --peer-cache") from error
    return replace(options, peer_cache=cache)


class Benchmark:
    """A benchmark that is running, and its report so far."""

    def __init__(self, bundle: Bundle, options: BenchOptions, workload: Workload, file: ReportFile, tell: Tell) -> None:
        self._tell, self._bundle, self._options, self._workload, self._file = tell, bundle, options, workload, file
        self._parameters = matmul_parameters(bundle)
        self._begin = time.monotonic()
        self._contestants: list[Contestant] = []
        self.report: Report = {
            "schema_version": SCHEMA_VERSION,
            "complete": False,
            "stopped": None,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": 0.0,
            "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            "machine": describe_machine(),
            "bundle": _bundle_record(bundle, self._parameters),
            "settings": _settings_record(options),
            "workload": describe(workload),
            "gemm_peak": None,
            "gemm_peaks": [],
            "contestants": [],
            "comparisons": [],
        }

    def save(self) -> None:
        """Save the report as it is now."""
        self.report["seconds"] = time.monotonic() - self._begin
        self.report["comparisons"] = comparisons(self.report["contestants"])
        self._file.save(self.report)

    def close(self) -> None:
        """End every contestant's process, and save the report."""
        for contestant in self._contestants:
            contestant.close()
        self.save()

    def measure(self, field: Sequence[Entrant]) -> None:
        """Load all contestants, then run the scenarios in their order."""
        self._contestants = [Contestant(entrant) for entrant in field]
        self.report["contestants"] = [contestant.record for contestant in self._contestants]
        self.save()
        self._tell("the machine's own peak")
        peaks = self._measure_peaks()
        for contestant in self._contestants:
            self._tell(f"{contestant.entrant.name}: loading{_where(contestant.entrant)}")
            contestant.attempt(self._enter)
            self.save()
        measurement = Measurement(
            contestants=self._contestants,
            options=self._options,
            workload=self._workload,
            matmul_parameters=self._parameters,
            peaks={peak["dtype"]: peak["flops"] for peak in peaks},
            save=self.save,
            check=self._check,
            tell=self._tell,
        )
        for name in self._options.scenarios:
            RUN[name](measurement)
        self._note_peak(self._contestants[0], peaks)
        self.report["complete"] = True

    def _measure_peaks(self) -> list[Report]:
        peaks = measure_gemm_peaks(self._options)
        self.report["gemm_peaks"] = peaks
        self.report["gemm_peak"] = peaks[0] if peaks else None
        self.save()
        return peaks

    def _note_peak(self, own: Contestant, peaks: Sequence[Report]) -> None:
        """Report the peak of the dtype that our bundle computes in, where that was measured."""
        fitting = [peak for peak in peaks if peak["dtype"] == own.record["precision"]]
        self.report["gemm_peak"] = fitting[0] if fitting else self.report["gemm_peak"]

    def _enter(self, contestant: Contestant) -> None:
        """Load the contestant, and score everything once: to compare scores, and as the beginning of the warm-up."""
        start(contestant, self._bundle.manifest, self._options, self._workload)
        scores = contestant.ask("offline")["scores"]
        contestant.scores = scores
        self._check(contestant, scores)

    def _check(self, contestant: Contestant, scores: Sequence[float | None]) -> None:
        """Compare a contestant's scores with ours; where we have none, nothing is compared."""
        own = self._contestants[0]
        if contestant is not own and own.scores:
            contestant.judge(own.scores, str(own.record["precision"]), self._workload, scores)


def _where(entrant: Entrant) -> str:
    return "" if entrant.python == sys.executable else f", in {entrant.python}"


def comparisons(contestants: Sequence[Report]) -> list[Report]:
    """How many times as fast as each peer the bundle is, per scenario; a ratio above 1 means that the bundle is faster.

    `contestants` are the report's records, the bundle's first. The measure is the first of a scenario's that the bundle
    and the peer both have.

    >>> ours = {"name": "rmexport", "scenarios": [{"scenario": "offline", "conversations_per_s": 30.0}]}
    >>> peer = {"name": "transformers", "scenarios": [{"scenario": "offline", "conversations_per_s": 15.0}]}
    >>> comparisons([ours, peer])[0]["ratio"]
    2.0
    """
    found: list[Report] = []
    own, others = (contestants[0], contestants[1:]) if contestants else ({}, ())
    for scenario, measure, more_is_better in COMPARED:
        mine = _figure(own, scenario, measure)
        for other in others:
            theirs = _figure(other, scenario, measure)
            known = any(c["scenario"] == scenario and c["contestant"] == other["name"] for c in found)
            if mine and theirs and not known:
                ratio = mine / theirs if more_is_better else theirs / mine
                found.append({"scenario": scenario, "measure": measure, "contestant": other["name"], "ratio": ratio})
    return found


def _figure(contestant: Report, scenario: str, measure: str) -> float | None:
    record: Report = next((s for s in contestant.get("scenarios", ()) if s["scenario"] == scenario), {})
    if measure == "achieved_rate":
        return max((point[measure] for point in record.get("points", ())), default=None)
    value = record.get(measure)
    return value["p50"] if isinstance(value, dict) else value


def _bundle_record(bundle: Bundle, parameters: int) -> Report:
    manifest = bundle.manifest
    return {
        "name": bundle.folder.resolve().name,
        "manifest_sha256": hashlib.sha256(bundle.path(MANIFEST_NAME).read_bytes()).hexdigest(),
        "model_type": manifest.backbone.model_type,
        "parameters": manifest.backbone.parameters,
        "matmul_parameters": parameters,
        "head": manifest.head,
        "dtype": manifest.dtype,
        "quantized": manifest.quantization.scheme if manifest.quantization else None,
        "source": {"repo": manifest.source.repo, "revision": manifest.source.revision},
    }


def _settings_record(options: BenchOptions) -> Report:
    unwritten = ("workload", "profile", "peer_cache", "peer_folder", "peers", "peer_python", "checkpoint")
    given = {name: value for name, value in asdict(options).items() if name not in unwritten}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}


def exit_status(report: Report) -> int:
    """The exit status: 130 when interrupted; 1 when the bundle failed or a contestant's scores differ; else 0.

    >>> exit_status({"stopped": None, "contestants": [{"status": "ok", "parity": None}]})
    0
    """
    if report["stopped"] is not None:
        return 130
    own_failed = report["contestants"][0]["status"] != "ok"
    differ = any((c["parity"] or {}).get("same") is False for c in report["contestants"])
    return 1 if own_failed or differ else 0
