"""Make the sender of traces. The SDK is imported only when traces are on."""

from bamboo_gateway.domain.errors import BambooError
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


class TracingUnavailable(BambooError):
    """Traces are on, but OpenTelemetry is not installed."""

    code = "tracing_unavailable"
