"""Reads and checks report.json, for `--from-json`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rmexport.bench.report.fields import SCENARIOS, Report
from rmexport.errors import ReportError

SCHEMA_VERSION = 1
_NEEDED: Mapping[str, tuple[type, ...]] = {
    "complete": (bool,),
    "machine": (dict,),
    "bundle": (dict,),
    "settings": (dict,),
    "workload": (dict,),
    "contestants": (list,),
}


def read_report(path: str | Path) -> dict[str, Any]:
    """The report in a JSON file that `rmexport bench` wrote, complete or partial.

    Raises ReportError when the file cannot be read or is not such a report; the message lists every fault.

    >>> read_report("missing.json")
    Traceback (most recent call last):
    rmexport.errors.ReportError: missing.json cannot be read: No such file or directory; give the report.json of ...
    """
    path = Path(path)
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise ReportError(f"{path} cannot be read: {error.strerror}; give the report.json of an earlier run") from error
    except (ValueError, RecursionError) as error:
        raise ReportError(
            f"{path} is not valid JSON ({error}); expected the report.json of `rmexport bench`"
        ) from error
    if not isinstance(data, dict):
        raise ReportError(f"{path} holds a JSON {type(data).__name__}, expected the report.json of `rmexport bench`")
    check_version(data, str(path))
    if found := faults(data):
        raise ReportError(f"{path} is not a report of `rmexport bench`: {'; '.join(found)}; measure again")
    return data


def check_version(report: Report, name: str) -> None:
    """Raises ReportError unless the report has this version's schema; `name` is the report's, for the message.

    >>> check_version({"schema_version": 1}, "report.json")
    """
    version = report.get("schema_version")
    if version == SCHEMA_VERSION and not isinstance(version, bool):
        return
    if version is None:
        raise ReportError(f"{name} has no schema_version; expected the report.json of `rmexport bench`")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ReportError(
            f"{name} has schema_version {version}, this rmexport reads {SCHEMA_VERSION}; use the rmexport that wrote it"
        )
    raise ReportError(f"{name} has schema_version {version!r}, expected {SCHEMA_VERSION}; measure again")


def faults(report: Report) -> list[str]:
    """The faults for which a report cannot be drawn, each as a clause; empty for a valid report.

    >>> faults({"complete": True, "machine": {}, "bundle": {}, "settings": {}, "workload": {}})
    ["'contestants' is missing"]
    """
    found = []
    for key, kinds in _NEEDED.items():
        if key not in report:
            found.append(f"{key!r} is missing")
        elif not isinstance(report[key], kinds):
            found.append(f"{key!r} is a {type(report[key]).__name__}, expected {kinds[0].__name__}")
    contestants = report.get("contestants")
    for i, contestant in enumerate(contestants if isinstance(contestants, list) else []):
        found += _contestant_faults(contestant, f"contestants[{i}]")
    return found + _histogram_faults(report.get("workload"))


def _contestant_faults(contestant: object, where: str) -> list[str]:
    if not isinstance(contestant, dict):
        return [f"{where} is a {type(contestant).__name__}, expected dict"]
    found = [f"{where} has no text {key!r}" for key in ("name", "status") if not isinstance(contestant.get(key), str)]
    scenarios = contestant.get("scenarios")
    if scenarios is None:
        return found
    if not isinstance(scenarios, list):
        return [*found, f"{where}.scenarios is a {type(scenarios).__name__}, expected list"]
    for i, scenario in enumerate(scenarios):
        name = scenario.get("scenario") if isinstance(scenario, dict) else None
        if name not in SCENARIOS:
            found.append(f"{where}.scenarios[{i}] is {name!r}, expected one of {', '.join(SCENARIOS)}")
    return found


def _histogram_faults(workload: object) -> list[str]:
    lengths = workload.get("lengths") if isinstance(workload, dict) else None
    if lengths is None:
        return []
    edges = lengths.get("edges") if isinstance(lengths, dict) else None
    counts = lengths.get("counts") if isinstance(lengths, dict) else None
    if not isinstance(edges, list) or not isinstance(counts, list):
        return ["workload.lengths lacks the lists edges and counts"]
    if len(edges) != len(counts) + 1:
        return [f"workload.lengths has {len(edges)} edges for {len(counts)} counts, expected one more edge than counts"]
    return []
