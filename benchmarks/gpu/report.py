"""What was measured, beside what the project wants: the rows of the table that the run ends with."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from gpu.contestants import PEER
from gpu.plan import KINDS

Results = Mapping[str, Any]
PARITY = "parity"
LOAD_SECONDS, HOST_BYTES = 30.0, 2e9
GEMM_SHARE, RAGGED_RATIO, BEST_OF_RATIO, LATENCY_RATIO = 0.65, 1.3, 5.0, 2.0


@dataclass(frozen=True, kw_only=True)
class Row:
    """`passed` is None for a figure that has no target, and for one that was not measured."""

    what: str
    measured: str
    wanted: str = ""
    passed: bool | None = None


def rows(results: Results) -> list[Row]:
    """Targets first, then every figure."""
    found = [*_targets(results), *_ceilings(results), *_probes(results), *_contestants(results), *_loads(results)]
    if results["smoke"]:  # nothing is passed or missed by tiny shapes on a CPU, but scores must be right there too
        judged = () if results.get("rehearsal") else (PARITY,)  # a stub computes none
        found = [row if row.what in judged else replace(row, passed=None) for row in found]
    return found


def failures(results: Results) -> list[str]:
    """What of ours did not run, or gave wrong scores; peers may fail."""
    parity = _parity(results.get("parity", []))
    wrong = parity.passed is False and not results.get("rehearsal")
    found = [f"{PARITY}: {parity.measured}"] if wrong else []
    records = [r for records in results.get("contestants", {}).values() for r in records if r["ours"]]
    found += [f"{r['name']}: {r['status']}" for r in records if r["status"] != "ok"]
    return found + [f"load, {r['engine']}: {r['message']}" for r in results.get("load", []) if "message" in r]


def text(table: list[Row]) -> str:
    """Aligned columns."""
    verdicts = {True: "pass", False: "MISS", None: ""}
    cells = [("", "measured", "wanted", "")]
    cells += [(row.what, row.measured, row.wanted, verdicts[row.passed]) for row in table]
    widths = [max(len(row[i]) for row in cells) for i in range(4)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in cells)


def _targets(results: Results) -> Iterator[Row]:
    yield _parity(results.get("parity", []))
    ours = _best(results, "8b", "ragged", "tokens_per_s", max)
    yield _at_least("8b, ragged: share of the Gemm ceiling in real tokens", _share(results, ours), GEMM_SHARE, "{:.1%}")
    for shape, workload, wanted in (("8b", "ragged", RAGGED_RATIO), ("8b", "best-of", BEST_OF_RATIO)):
        ratio = _ratio(results, shape, workload, "tokens_per_s", max)
        yield _at_least(f"{shape}, {workload}: tokens/s against {PEER}", ratio, wanted, "{:.2f}x")
    ratio = _ratio(results, "0.6b", "single", "p50", min)
    yield _at_least(f"0.6b, one conversation: p50 against {PEER}", ratio and 1 / ratio, LATENCY_RATIO, "{:.2f}x")
    loads = [r for r in results.get("load", []) if "load_s" in r]
    yield _at_most("8b: load from page cache", _least(loads, lambda r: r["load_s"]), LOAD_SECONDS, "{:.1f} s")
    resident = _least(loads, lambda r: r["host_after_load"]["resident"])
    yield _at_most(
        "8b: host memory after loading, resident peak", resident and resident / 1e9, HOST_BYTES / 1e9, "{:.2f} GB"
    )


def _parity(records: list[Results]) -> Row:
    """Every engine that must run; what is informative says so in its own row."""
    judged = [r for r in records if not r.get("informative")]
    failed = [f"{r['case']} on {r['engine']}" for r in judged if not r["passed"]]
    if not judged:
        return Row(what=PARITY, measured="not measured", wanted="all pass")
    measured = f"{len(judged) - len(failed)} of {len(judged)}" + (f"; failed: {', '.join(failed)}" if failed else "")
    return Row(what=PARITY, measured=measured, wanted="all pass", passed=not failed)


def _at_least(what: str, measured: float | None, wanted: float, form: str) -> Row:
    if measured is None:
        return Row(what=what, measured="not measured", wanted=f">= {form.format(wanted)}")
    return Row(what=what, measured=form.format(measured), wanted=f">= {form.format(wanted)}", passed=measured >= wanted)


def _at_most(what: str, measured: float | None, wanted: float, form: str) -> Row:
    if measured is None:
        return Row(what=what, measured="not measured", wanted=f"< {form.format(wanted)}")
    return Row(what=what, measured=form.format(measured), wanted=f"< {form.format(wanted)}", passed=measured < wanted)


def _least(records: list[Results], value: Callable[[Results], float]) -> float | None:
    """Of the engines: one that does it is enough."""
    return min((value(record) for record in records), default=None)


def _values(results: Results, shape: str, workload: str, figure: str) -> dict[str, float]:
    """By contestant, where it was measured."""
    found = {}
    for record in results.get("contestants", {}).get(shape, []):
        known = record["workloads"].get(workload)
        if known is not None:
            value = known["latency_ms"][figure] if workload == "single" else known[figure]
            if value is not None:
                found[record["name"]] = value
    return found


def _best(
    results: Results, shape: str, workload: str, figure: str, better: Callable[[list[float]], float]
) -> float | None:
    """Of our engines, wrong scores left out."""
    values = _values(results, shape, workload, figure)
    ours = [
        values[r["name"]]
        for r in results.get("contestants", {}).get(shape, [])
        if r["ours"] and r["name"] in values and r["workloads"][workload].get("parity", {}).get("same") is not False
    ]
    return better(ours) if ours else None


def _ratio(
    results: Results, shape: str, workload: str, figure: str, better: Callable[[list[float]], float]
) -> float | None:
    """Ours over the peer's."""
    ours, peer = _best(results, shape, workload, figure, better), _values(results, shape, workload, figure).get(PEER)
    return None if ours is None or not peer else ours / peer


def _share(results: Results, tokens_per_s: float | None) -> float | None:
    """Of the measured ceiling: tokens as given x FLOP of the layers' products."""
    ceiling = results.get("ceilings", {}).get("best")
    if tokens_per_s is None or not ceiling:
        return None
    share: float = tokens_per_s * results["flops_per_token"]["8b"] / ceiling
    return share


def _ceilings(results: Results) -> Iterator[Row]:
    found = results.get("ceilings")
    if found:
        for name, flops in found["gemm"].items():
            size = " x ".join(map(str, found["sizes"][name]))
            yield Row(what=f"Gemm, {name} ({size})", measured=f"{flops / 1e12:.1f} TFLOP/s")
        yield Row(what="copy, read and written", measured=f"{found['copy'] / 1e12:.2f} TB/s")


def _probes(results: Results) -> Iterator[Row]:
    probes = results.get("probes", {})
    for kind in KINDS:
        for r in probes.get(kind, []):
            place = (
                f" {r['in']} -> {r['out']}" if kind in ("linear", "fp8") else f" {r['of']}" if kind == "fused" else ""
            )
            yield Row(what=f"{kind}{place}: {r['variant']}", measured=_probe(r))
    for r in probes.get("tensorrt", []):
        yield Row(what=r["library"], measured=f"reached {r['reached']}; {r.get('message', '')[:80]}".strip("; "))


def _probe(record: Results) -> str:
    if "message" in record:
        return f"refused: {record['message'][:80]}"
    rate = f", {record['flops'] / 1e12:.1f} TFLOP/s" if "flops" in record else ""
    return f"{record['seconds'] * 1e3:.3f} ms{rate}, off by {record['max_abs']:.1e}"


def _contestants(results: Results) -> Iterator[Row]:
    for shape, records in results.get("contestants", {}).items():
        for record in records:
            if record["status"] != "ok":
                yield Row(what=f"{shape}: {record['name']}", measured=f"{record['status']}: {record['message'][:100]}")
            for name, found in record["workloads"].items():
                yield Row(what=f"{shape}, {name}: {record['name']}", measured=_figures(results, shape, found))


def _figures(results: Results, shape: str, found: Results) -> str:
    if "latency_ms" in found:
        latency = found["latency_ms"]
        return f"p50 {latency['p50']:.2f} ms, p99 {latency['p99']:.2f} ms ({found['tokens']} tokens)"
    ceiling = results.get("ceilings", {}).get("best")
    rate = found["tokens_per_s"]
    done = rate * _computed_share(found) * results["flops_per_token"][shape]
    share = f", {done / ceiling:.1%} of the ceiling" if ceiling else ""
    parity = found.get("parity")
    scores = "" if parity is None else ", same scores" if parity["same"] else f", WRONG SCORES ({parity['max_abs']})"
    batch = "" if found["batch"] is None else f", batch {found['batch']}"
    return f"{rate:,.0f} tokens/s{share}{batch}{scores}"


def _computed_share(found: Results) -> float:
    """Of the tokens as given, those that were computed: fewer where prefixes are shared. Padding is no work done."""
    computed = found["computed"]
    return 1.0 if computed is None else min(1.0, float(computed) / float(found["tokens"]))


def _loads(results: Results) -> Iterator[Row]:
    for record in results.get("load", []):
        if "load_s" not in record:
            yield Row(what=f"load, {record['engine']}", measured=record["message"][:100])
            continue
        host, device = record["host_after_load"], record["device_after_load"]
        memory = f"host {host['anonymous'] / 1e9:.2f} GB anonymous, {host['resident'] / 1e9:.2f} GB resident"
        memory += "" if device is None else f", device {device / 1e9:.1f} GB"
        memory += "" if device is None else f", {record['device_after_scoring'] / 1e9:.1f} GB after scoring"
        times = f"{record['load_s']:.1f} s, first score {record['first_score_s']:.2f} s"
        yield Row(
            what=f"load, {record['engine']} ({record['bundle_bytes'] / 1e9:.1f} GB)", measured=f"{times}; {memory}"
        )
