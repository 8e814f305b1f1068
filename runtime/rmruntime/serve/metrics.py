"""Counters and histograms in Prometheus' text format, version 0.0.4."""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Labels = tuple[tuple[str, str], ...]
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True)
class Metric:
    """A metric's name, type and meaning; `buckets` are the upper bounds of a histogram."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    buckets: Sequence[float] = ()


@dataclass
class _Histogram:
    counts: list[int]
    total: float = 0.0


@dataclass
class Metrics:
    """The values of metrics since the server began. For one thread.

    >>> requests = Metric("requests_total", "counter", "Requests answered.")
    >>> metrics = Metrics()
    >>> metrics.add(requests, {"status": "200"})
    >>> print(metrics.text(), end="")
    # HELP requests_total Requests answered.
    # TYPE requests_total counter
    requests_total{status="200"} 1
    """

    _sums: dict[Metric, dict[Labels, float]] = field(default_factory=dict)
    _histograms: dict[Metric, dict[Labels, _Histogram]] = field(default_factory=dict)

    def add(self, metric: Metric, labels: Mapping[str, str], amount: float = 1) -> None:
        """Count `amount` more."""
        sums, key = self._sums.setdefault(metric, {}), tuple(labels.items())
        sums[key] = sums.get(key, 0) + amount

    def observe(self, metric: Metric, labels: Mapping[str, str], value: float) -> None:
        """One more value of a histogram."""
        found = self._histograms.setdefault(metric, {}).setdefault(
            tuple(labels.items()), _Histogram([0] * (len(metric.buckets) + 1))
        )
        found.counts[bisect_left(metric.buckets, value)] += 1
        found.total += value

    def text(self) -> str:
        """All values, in the order in which their metrics were first used."""
        lines: list[str] = []
        for metric, sums in self._sums.items():
            lines += metric_lines(metric, sums.items())
        for metric, histograms in self._histograms.items():
            lines += _head(metric)
            for labels, histogram in histograms.items():
                lines += _histogram_lines(metric, labels, histogram)
        return "".join(f"{line}\n" for line in lines)


def metric_lines(metric: Metric, values: Iterable[tuple[Labels, float]]) -> list[str]:
    """The lines of a counter or gauge.

    >>> metric_lines(Metric("up", "gauge", "Whether it is."), [((), 1)])[-1]
    'up 1'
    """
    return [*_head(metric), *(f"{metric.name}{_labels(labels)} {value:.12g}" for labels, value in values)]


def _head(metric: Metric) -> list[str]:
    return [f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.kind}"]


def _histogram_lines(metric: Metric, labels: Labels, histogram: _Histogram) -> list[str]:
    lines, count = [], 0
    for bound, own in zip([*map("{:g}".format, metric.buckets), "+Inf"], histogram.counts, strict=True):
        count += own
        lines.append(f"{metric.name}_bucket{_labels((*labels, ('le', bound)))} {count}")
    return [
        *lines,
        f"{metric.name}_sum{_labels(labels)} {histogram.total:.12g}",
        f"{metric.name}_count{_labels(labels)} {count}",
    ]


def _labels(labels: Labels) -> str:
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels) + "}" if labels else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
