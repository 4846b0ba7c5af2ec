"""Makes what sends traces; the SDK is imported for that, and not before."""

from bamboo_gateway.domain.errors import BambooError
from bamboo_gateway.observability.tracing import Spans


def make_spans(endpoint: str) -> Spans:
    """Makes what sends spans to an OTLP endpoint.

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
    """Traces were asked for, and OpenTelemetry is not installed."""

    code = "tracing_unavailable"
