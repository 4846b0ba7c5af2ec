"""Metrics: the numbers of the inside as Prometheus text."""

from collections.abc import Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_PREFIX: Final = "bamboo_"


def render_metrics(stats: Mapping[str, float], problems: Mapping[str, int]) -> bytes:
    """Gives the text for one scrape.

    Args:
        stats: Names to numbers; a name that ends in `_total` is a counter, any other a gauge.
        problems: How often each problem was answered, by its code: so every limit that is hit
            is counted, and its count has the name that the client was told.
    """
    registry = CollectorRegistry()
    registry.register(_Stats(stats))
    registry.register(_Problems(problems))
    ProcessCollector(registry=registry)
    return generate_latest(registry)


class _Stats(Collector):
    def __init__(self, stats: Mapping[str, float]) -> None:
        self._stats = stats

    @override
    def collect(self) -> Iterator[Metric]:
        for name, value in sorted(self._stats.items()):
            words = name.replace("_", " ").capitalize() + "."
            if name.endswith("_total"):
                yield CounterMetricFamily(_PREFIX + name, words, value)
            else:
                yield GaugeMetricFamily(_PREFIX + name, words, value)


class _Problems(Collector):
    def __init__(self, problems: Mapping[str, int]) -> None:
        self._problems = problems

    @override
    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(
            _PREFIX + "problems_total", "Refused or failed requests.", labels=["code"]
        )
        for code, count in sorted(self._problems.items()):
            family.add_metric([code], count)
        yield family
