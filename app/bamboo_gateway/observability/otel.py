"""Spans of OpenTelemetry's SDK (the extra `otel`); a thread of the SDK sends them over OTLP/HTTP.

The SDK's `OTEL_…` variables configure the rest: sampling, resource, headers, batching.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context, get_current
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from typing_extensions import override

from bamboo_gateway.observability.tracing import Parent, RawHeaders, Spans

_W3C: Final = TraceContextTextMapPropagator()
_W3C_HEADERS: Final = frozenset({b"traceparent", b"tracestate"})


class OtelSpans(Spans):
    """Makes spans and sends them to an OTLP endpoint."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("bamboo-gateway")

    @staticmethod
    def to_endpoint(endpoint: str) -> "OtelSpans":
        """Return one that sends to an OTLP endpoint, like `http://127.0.0.1:4318`."""
        name = os.environ.get("OTEL_SERVICE_NAME", "bamboo-gateway")
        provider = TracerProvider(resource=Resource.create({SERVICE_NAME: name}))
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
        provider.add_span_processor(BatchSpanProcessor(exporter))
        return OtelSpans(provider)

    @override
    @contextmanager
    def of_request(self, headers: RawHeaders) -> Iterator["_RequestSpan"]:
        carrier = {
            name.decode("ascii"): value.decode("latin-1")
            for name, value in headers
            if name in _W3C_HEADERS
        }
        parent = _W3C.extract(carrier, Context())
        with self._begin("request", parent, {}, SpanKind.SERVER) as span:
            yield _RequestSpan(span)

    @override
    def within(self, name: str, attributes: dict[str, Any]) -> AbstractContextManager[Any]:
        return self._begin(name, get_current(), _own(attributes))

    @override
    def under(
        self, parent: Parent, name: str, attributes: dict[str, Any]
    ) -> AbstractContextManager[Any]:
        return self._begin(name, Context() if parent is None else parent, _own(attributes))

    def _begin(
        self,
        name: str,
        parent: Context,
        attributes: dict[str, Any],
        kind: SpanKind = SpanKind.INTERNAL,
    ) -> AbstractContextManager[trace.Span]:
        return self._tracer.start_as_current_span(
            name,
            context=parent,
            kind=kind,
            attributes=attributes,
            # The text of an exception may quote a session.
            record_exception=False,
            set_status_on_exception=False,
        )

    @override
    def here(self) -> Parent:
        return get_current()

    @override
    def headers(self) -> dict[str, str]:
        carrier: dict[str, str] = {}
        _W3C.inject(carrier)
        return carrier

    @override
    def close(self) -> None:
        self._provider.shutdown()


def _own(attributes: dict[str, Any]) -> dict[str, Any]:
    return {f"bamboo.{name}": value for name, value in attributes.items()}


class _RequestSpan:
    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def answered(self, name: str, attributes: dict[str, Any], *, failed: bool) -> None:
        """Implement `tracing.Span`."""
        self._span.update_name(name)
        self._span.set_attributes(attributes)
        if failed:
            self._span.set_status(Status(StatusCode.ERROR))
