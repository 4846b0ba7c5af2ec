"""Make the sender of traces and the text of a scrape; their libraries are imported when needed."""

from pathlib import Path

from bamboo_gateway.domain.errors import BambooError
from bamboo_gateway.observability.metrics import Measures
from bamboo_gateway.observability.tracing import Spans


def make_spans(endpoint: str) -> Spans:
    """Return the sender of spans to an OTLP endpoint.

    Raises:
        TracingUnavailable: The extra `otel` is not installed.
    """
    try:
        from bamboo_gateway.observability.otel import OtelSpans
    except ImportError as error:
        raise TracingUnavailable(
            "otel_endpoint is set, and OpenTelemetry is missing: install bamboo-gateway[otel]."
        ) from error
    return OtelSpans.to_endpoint(endpoint)


def render_metrics(measures: Measures, data_dir: Path | None) -> bytes:
    """Return the text for one scrape, as `prometheus.render_metrics` does; in a worker thread."""
    from bamboo_gateway.observability import prometheus

    return prometheus.render_metrics(measures, data_dir)


class TracingUnavailable(BambooError):
    """Traces are on, but OpenTelemetry is not installed."""

    code = "tracing_unavailable"
