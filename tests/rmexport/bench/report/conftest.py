"""Sample reports as `rmexport bench` writes them: seeded random figures, never measured ones."""

import copy
import json
import random
import statistics
from collections.abc import Callable
from typing import Any

import pytest

Report = dict[str, Any]


def stats(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    at = {f"p{p}": ordered[min(len(ordered) - 1, int(len(ordered) * p / 100))] for p in (50, 90, 95, 99, 99.9)}
    spread = {"mean": statistics.mean(values), "std": statistics.pstdev(values), "min": ordered[0], "max": ordered[-1]}
    return {"count": len(values), **spread, **at}


def single_stream(rng: random.Random, base_ms: float, *, split: bool) -> Report:
    repeats = [[base_ms * rng.lognormvariate(0, 0.08) for _ in range(60)] for _ in range(3)]
    every = [v for r in repeats for v in r]
    shares = {"template": 0.01, "tokenize": 0.02, "plan": 0.008, "engine": 0.95, "output": 0.004}
    return {
        "scenario": "single-stream",
        "warm_up_p50_ms": [base_ms * 1.6, base_ms * 1.02, base_ms],
        "settled": True,
        "repeats": [{"latency_ms": r} for r in repeats],
        "latency_ms": stats(every),
        "repeat_p50_ms": [statistics.median(r) for r in repeats],
        "split_ms": {k: stats([v * share for v in every]) for k, share in shares.items()} if split else None,
        "errors": 0,
    }


def server(rng: random.Random, base_ms: float, *, capacity: float) -> Report:
    points = []
    for load in (0.25, 0.5, 0.7, 0.9, 1.3):
        rate = capacity * load
        reached = min(rate, capacity)
        wait = base_ms / max(0.03, 1 - load)
        samples = [[i / rate, i / rate + wait * rng.lognormvariate(0, 0.3) / 1000] for i in range(120)]
        latencies = [1000 * (done - scheduled) for scheduled, done in samples]
        points.append({"rate": rate, "achieved_rate": reached, "seconds": 120 / reached, "latency_ms": stats(latencies),
                       "goodput_per_s": reached * statistics.mean(v < 200 for v in latencies), "samples": samples,
                       "saturated": load > 1, "errors": 9 * (load > 1)})  # fmt: skip
    return {"scenario": "server", "slo_ms": 200.0, "knee_rate": capacity * 0.9, "points": points}


def offline(rng: random.Random, rate: float, *, split: bool) -> Report:
    seconds = [64 / rate * (1 + rng.random() * 0.05) for _ in range(3)]
    best = min(seconds)
    parts = {"template": 0.004, "tokenize": 0.03, "plan": 0.006, "engine": 0.955, "output": 0.001}
    return {
        "scenario": "offline",
        "repeats": [{"seconds": s} for s in seconds],
        "seconds": best,
        "spread": max(seconds) / best - 1,
        "conversations_per_s": 64 / best,
        "tokens_per_s": 64 * 576 / best,
        "computed_tokens_per_s": 64 * 128 / best,
        "padded_tokens": 0 if split else 5312,
        "gemm_share": 0.71 if split else 0.44,
        "split_s": {k: best * v for k, v in parts.items()} if split else None,
        "errors": 0,
    }


def contestant(name: str, rng: random.Random, slowness: float) -> Report:
    own = name == "rmexport"
    packages = {"rmexport": "0.1.0", "openvino": "2026.4.1"} if own else {"torch": "2.13.0", "transformers": "5.23.0"}
    return {
        "name": name,
        "settings": "openvino, bf16, batches of at most 4096 tokens" if own else "sorted by length, batches of 8",
        "status": "ok",
        "message": None,
        "python": "3.11.2",
        "versions": packages,
        "precision": "bf16",
        "load_s": 0.8 * slowness,
        "first_score_s": 0.1 * slowness,
        "peak_bytes": {"anonymous": int(3e8 * slowness), "resident": int(1.2e9 * slowness)},
        "parity": None if own else {"reference": "rmexport", "max_abs": 0.011 * slowness, "mean_abs": 0.0021,
                   "spearman": 0.9998, "flipped_pairs": 0, "pairs": 64, "tolerance": 0.05, "same": True},
        "scenarios": [
            single_stream(rng, 21.0 * slowness, split=own),
            server(rng, 21.0 * slowness, capacity=52.0 / slowness),
            offline(rng, 88.0 / slowness, split=own),
        ],
    }  # fmt: skip


def compare(report: Report) -> list[Report]:
    measures = (
        ("single-stream", "latency_ms", lambda s: 1 / s["latency_ms"]["p50"]),
        ("server", "knee_rate", lambda s: s["knee_rate"]),
        ("offline", "conversations_per_s", lambda s: s["conversations_per_s"]),
    )
    own, *peers = report["contestants"]
    return [
        {"scenario": scenario, "measure": measure, "contestant": peer["name"],
         "ratio": read(own["scenarios"][i]) / read(peer["scenarios"][i])}
        for peer in peers
        for i, (scenario, measure, read) in enumerate(measures)
    ]  # fmt: skip


def full_report() -> Report:
    rng = random.Random(0)
    report: Report = {
        "schema_version": 1,
        "complete": True,
        "stopped": None,
        "started": "2026-01-02T03:04:05+00:00",
        "seconds": 312.4,
        "command": "rmexport bench bundles/llama-426m --checkpoint llama-426m --profile best-of-8"
        " --peer transformers --peer transformers-kv"
        " --scenario single-stream --scenario server --slo-ms 200",
        "machine": {"cpu": "Intel(R) Xeon(R) Platinum 8581C CPU @ 2.10GHz", "cores": 2,
                    "flags": ["avx512f", "amx_bf16", "amx_int8"],
                    "memory_bytes": 25_000_000_000, "numa_nodes": 1, "os": "Linux 6.1", "python": "3.11.2",
                    "load_before": 0.12, "gpus": []},
        "bundle": {"name": "llama-426m", "manifest_sha256": "9f" * 32, "model_type": "llama", "parameters": 426_000_000,
                   "matmul_parameters": 360_000_000, "head": "sequence_classification", "dtype": "bf16",
                   "source": {"name": "llama-426m", "revision": None, "files": {"config.json": "ab" * 32}}},
        "settings": {"warmup": 5, "repeats": 3, "threads": 0, "max_batch_tokens": 4096, "peer_batch": 8, "seed": 0,
                     "slo_ms": 200.0, "duration_s": 10.0},
        "workload": {"name": "best-of-8", "kind": "profile", "sha256": "c0" * 32, "seed": 0, "records": 8,
                     "sequences": 64, "tokens": 36864, "distinct_tokens": 8192, "shared_share": 0.778,
                     "lengths": {"edges": list(range(0, 1025, 64)), "min": 96, "p50": 560, "p90": 700, "max": 1011,
                                 "mean": 540.2, "counts": [0, 1, 2, 1, 3, 4, 5, 7, 12, 10, 8, 4, 3, 2, 1, 1]}},
        "gemm_peaks": [{"dtype": "bf16", "flops": 2.61e12, "shape": [2048, 4096, 4096], "with": "torch 2.13.0"},
                       {"dtype": "fp32", "flops": 2.4e11, "shape": [2048, 4096, 4096], "with": "torch 2.13.0"}],
        "contestants": [contestant("rmexport", rng, 1.0), contestant("transformers", rng, 2.4),
                        contestant("transformers-kv", rng, 1.5)],
    }  # fmt: skip
    report["comparisons"] = compare(report)
    return json.loads(json.dumps(report))  # type: ignore[no-any-return]


def wrong_scores_report() -> Report:
    report = full_report()
    report["contestants"][2]["parity"] |= {"max_abs": 3.2, "flipped_pairs": 17, "same": False}
    return report


def failed_report() -> Report:
    """One contestant crashed, one is not installed; both have nothing but a name and a message."""
    report = full_report()
    nothing = dict.fromkeys(report["contestants"][0])
    crash = "RuntimeError: mkldnn <b>matmul</b> & co failed\n  at line 3\x1b[31m"
    report["contestants"] += [
        {**nothing, "name": "vllm", "status": "failed", "message": crash, "scenarios": []},
        {**nothing, "name": "optimum-intel", "status": "not installed", "message": "no module optimum in this Python",
         "scenarios": []},
    ]  # fmt: skip
    return report


def partial_report() -> Report:
    """Interrupted in the first contestant's first scenario."""
    report = full_report()
    report |= {"complete": False, "stopped": "interrupted", "comparisons": [], "gemm_peaks": None, "gemm_peak": None}
    report["contestants"] = report["contestants"][:2]
    own, peer = report["contestants"]
    own["scenarios"] = own["scenarios"][:1]
    own["scenarios"][0]["split_ms"] = None
    peer |= dict.fromkeys(("parity", "peak_bytes", "load_s", "first_score_s", "versions", "python"))
    peer["scenarios"] = []
    return report


def empty_report() -> Report:
    """Stopped before anything was known."""
    needed = {"machine": {}, "bundle": {}, "settings": {}, "workload": {}, "contestants": []}
    return {"schema_version": 1, "complete": False, "stopped": "no conversation could be read", **needed}


SAMPLES: dict[str, Callable[[], Report]] = {
    "full": full_report,
    "wrong scores": wrong_scores_report,
    "failed": failed_report,
    "partial": partial_report,
    "empty": empty_report,
}


@pytest.fixture(scope="session")
def samples() -> Callable[[str], Report]:
    """A fresh sample report by name."""
    return lambda name: copy.deepcopy(SAMPLES[name]())


@pytest.fixture(params=list(SAMPLES))
def any_report(request: pytest.FixtureRequest) -> Report:
    return SAMPLES[request.param]()
