"""Metrics as Prometheus text: the client library's families, made of the gateway's numbers."""

import shutil
from collections.abc import Iterator, Mapping
from math import inf
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from typing_extensions import override

from bamboo_gateway.observability.histogram import Histogram
from bamboo_gateway.observability.metrics import FAMILIES, PREFIX, Family, Measure, Measures


def render_metrics(measures: Measures, data_dir: Path | None) -> bytes:
    """Return the text for one scrape. Reads files: not on the event loop.

    Args:
        measures: The values, by family.
        data_dir: The directory whose free space is shown; None for a store without one.
    """
    registry = CollectorRegistry()
    registry.register(_Families({**measures, **_free_space(data_dir)}))
    ProcessCollector(registry=registry)
    return generate_latest(registry)


def _free_space(data_dir: Path | None) -> Measures:
    if data_dir is None:
        return {}
    try:
        return {"disk_free_bytes": shutil.disk_usage(data_dir).free}
    except OSError:
        return {}  # a missing disk must not hide the other metrics


class _Families(Collector):
    def __init__(self, measures: Measures) -> None:
        self._measures = measures

    @override
    def collect(self) -> Iterator[Metric]:
        for name, family in FAMILIES.items():
            measure = self._measures.get(name)
            if measure is not None:
                yield _metric(PREFIX + name, family, measure)


def _metric(name: str, family: Family, measure: Measure) -> Any:
    metric = _KINDS[family.kind](name, family.help, labels=family.labels)
    values: Mapping[Any, Any] = measure if isinstance(measure, Mapping) else {(): measure}
    for labels, value in sorted(values.items(), key=itemgetter(0)):
        if isinstance(value, Histogram):
            metric.add_metric(labels, list(_buckets(value)), value.sum)
        else:
            metric.add_metric(labels, value)
    return metric


_KINDS: Final[Mapping[str, Any]] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


def _buckets(histogram: Histogram) -> Iterator[tuple[str, int]]:
    for bound, count in histogram.buckets():
        yield "+Inf" if bound == inf else f"{bound:g}", count
