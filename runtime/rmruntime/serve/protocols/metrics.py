"""What monitoring reads: /metrics in Prometheus' text format, and vLLM's /load."""

import os
from collections.abc import Iterator

from rmruntime.serve.http_messages import Answer, HttpRequest
from rmruntime.serve.metrics import TEXT_TYPE, Labels, Metric, metric_lines
from rmruntime.serve.problems import own_error_body
from rmruntime.serve.protocols.base import Protocol, Route
from rmruntime.serve.service import Service

_STATISTICS = (
    ("sequences", "rmruntime_engine_sequences_total", "Sequences that passes computed."),
    ("passes", "rmruntime_engine_passes_total", "Passes of the engine; sequences by passes is the batch size."),
    ("given", "rmruntime_engine_tokens_given_total", "Tokens of all sequences."),
    ("computed", "rmruntime_engine_tokens_computed_total", "Tokens computed, after sharing and the prefix cache."),
    ("cached", "rmruntime_engine_tokens_cached_total", "Tokens that the prefix cache had."),
    ("padded", "rmruntime_engine_tokens_padded_total", "Padding that was computed beside the tokens."),
)
_READY = Metric("rmruntime_ready", "gauge", "Whether every model is loaded and the server does not end.")
_IN_FLIGHT = Metric("rmruntime_requests_in_flight", "gauge", "Requests that are being answered.")
_SESSIONS = Metric("rmruntime_sessions", "gauge", "Open sessions.")
_WAITING = Metric("rmruntime_queue_tokens", "gauge", "Tokens that wait for the engine.")
_MODEL = Metric("rmruntime_model_info", "gauge", "The bundle and the engine that answer, always 1.")
_MEMORY = Metric("rmruntime_resident_bytes", "gauge", "Memory of the process, engines on the CPU included.")
_CACHE = Metric("rmruntime_prefix_cache_bytes", "gauge", "The most memory that the prefix cache may take.")


async def metrics(request: HttpRequest, service: Service) -> Answer:
    """Everything, in Prometheus' text format."""
    lines = [line for group in _gauges(service) for line in group]
    return Answer.of_text("".join(f"{line}\n" for line in lines) + service.observer.metrics.text(), TEXT_TYPE)


async def load(request: HttpRequest, service: Service) -> Answer:
    """How many requests are being answered besides this one."""
    return Answer.of_json({"server_load": service.observer.in_flight - 1})


def _gauges(service: Service) -> Iterator[list[str]]:
    yield metric_lines(_READY, [((), int(service.is_ready))])
    yield metric_lines(_IN_FLIGHT, [((), service.observer.in_flight - 1)])
    yield metric_lines(_SESSIONS, [((), len(service.sessions))])
    memory = _resident_bytes()
    if memory is not None:
        yield metric_lines(_MEMORY, [((), memory)])
    loaded = [(_named(name), model) for name, model in service.models.items() if model.is_loaded]
    yield metric_lines(_WAITING, [(labels, model.model.waiting_tokens) for labels, model in loaded])
    yield metric_lines(_CACHE, [(labels, model.model.prefix_cache_bytes) for labels, model in loaded])
    facts = [model.facts for _, model in loaded]
    yield metric_lines(
        _MODEL,
        [((*_named(f.name), ("digest", f.digest), ("engine", f.engine), ("precision", f.precision)), 1) for f in facts],
    )
    for attribute, name, meaning in _STATISTICS:
        values = [(labels, getattr(model.model.statistics, attribute)) for labels, model in loaded]
        yield metric_lines(Metric(name, "counter", meaning), values)


def _named(model: str) -> Labels:
    return (("model", model),)


def _resident_bytes() -> int | None:
    """Of this process; None where the system does not say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None


PROTOCOL = Protocol(
    name="metrics",
    routes=(
        Route("GET", "/metrics", metrics, body="none", quiet=True),
        Route("GET", "/load", load, body="none", quiet=True),
    ),
    error_body=own_error_body,
)
