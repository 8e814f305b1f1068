"""What is recorded of every request: its metrics, and one line of JSON in the log, without any of its text."""

import json
import logging

from rmruntime.serve.http_messages import HttpRequest
from rmruntime.serve.metrics import COUNTS, SECONDS, Metric, Metrics

LOG = logging.getLogger("rmruntime.serve")
REQUESTS = Metric("rmruntime_requests_total", "counter", "Requests answered, by route, protocol and status.")
RECORDS = Metric("rmruntime_records_total", "counter", "Records that requests asked to score.")
TOKENS = Metric("rmruntime_tokens_total", "counter", "Tokens of scored records: given, computed, or cached.")
LATENCY = Metric("rmruntime_request_seconds", "histogram", "From a request's headers to its answer.", SECONDS)
PHASES = Metric(
    "rmruntime_phase_seconds", "histogram", "By phase: read, tokenize, score (queue and engine), other.", SECONDS
)
CALL_SIZE = Metric("rmruntime_request_records", "histogram", "Records of one request.", COUNTS)


class Observer:
    """Counts and logs what was answered. `in_flight` requests are being answered now."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.in_flight = 0

    def finished(self, request: HttpRequest, status: int, seconds: float) -> None:
        """Record a request that was answered, or whose client has gone (status 499)."""
        trace = request.trace
        labels = {"route": trace.route or "none", "protocol": trace.protocol or "none"}
        self.metrics.add(REQUESTS, {**labels, "status": str(status)})
        if trace.quiet:
            return
        self.metrics.observe(LATENCY, labels, seconds)
        if trace.records:
            self._scored(request, seconds)
        if LOG.isEnabledFor(logging.INFO):
            LOG.info("%s", json.dumps(_line(request, status, seconds)))

    def _scored(self, request: HttpRequest, seconds: float) -> None:
        trace = request.trace
        self.metrics.observe(CALL_SIZE, {}, trace.records)
        self.metrics.add(RECORDS, {}, trace.records)
        for kind in ("given", "computed", "cached"):
            self.metrics.add(TOKENS, {"kind": kind}, getattr(trace.statistics, kind))
        for phase, spent in _phases(request, seconds).items():
            self.metrics.observe(PHASES, {"phase": phase}, spent)


def _phases(request: HttpRequest, seconds: float) -> dict[str, float]:
    trace = request.trace
    spent = {"read": trace.read_seconds, "tokenize": trace.tokenize_seconds, "score": trace.score_seconds}
    return {**spent, "other": max(0.0, seconds - sum(spent.values()))}


def _line(request: HttpRequest, status: int, seconds: float) -> dict[str, object]:
    """What the log has of a request: numbers and names, and no text that was scored."""
    trace = request.trace
    line: dict[str, object] = {
        "request": request.id,
        "method": request.method[:20],
        "route": trace.route or "none",
        "protocol": trace.protocol or "none",
        "status": status,
        "ms": round(seconds * 1000, 3),
    }
    if trace.records:
        phases = {f"{name}_ms": round(spent * 1000, 3) for name, spent in _phases(request, seconds).items()}
        tokens = {name: getattr(trace.statistics, name) for name in ("given", "computed", "cached")}
        line |= {"records": trace.records, "tokens": tokens, **phases}
    if trace.facts is not None:
        line |= {"model": trace.facts.name, "digest": trace.facts.digest[:12]}
    return line
