"""Traces, if they are on: a span for each request, its commit, and each run.

While traces are off, OpenTelemetry's SDK is not imported, and a span costs reading one variable.
Spans name routes, sessions and runs. They hold no content of sessions and no text of exceptions.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, Protocol

RawHeaders = Iterable[tuple[bytes, bytes]]
Parent = Any
"""The parent of a span: a result of `here`, or None to begin a new trace."""


class Span(Protocol):
    """A span that has not ended."""

    def answered(self, name: str, attributes: dict[str, Any], *, failed: bool) -> None:
        """Set the name of a request's span, its status, and whether it failed."""


class Spans(Protocol):
    """Makes spans; implemented by `observability.otel`."""

    def of_request(self, headers: RawHeaders) -> AbstractContextManager[Span]:
        """Begin a span, in the trace that the request names (W3C `traceparent`) if it does."""

    def within(self, name: str, attributes: dict[str, Any]) -> AbstractContextManager[Any]:
        """Begin a span under the current one."""

    def under(
        self, parent: Parent, name: str, attributes: dict[str, Any]
    ) -> AbstractContextManager[Any]:
        """Begin a span under the given one."""

    def here(self) -> Parent:
        """Return the current span, for one that begins in another task."""

    def headers(self) -> dict[str, str]:
        """Return the headers that name the current span to another service."""

    def close(self) -> None:
        """Send the ended spans, and stop. May block."""


_OFF: Final[AbstractContextManager[None]] = nullcontext()


class _Switch:
    """The tracing of the process, global as OpenTelemetry's own context is."""

    spans: Spans | None = None


def switch(spans: Spans | None) -> None:
    """Switch tracing on, or off with None."""
    _Switch.spans = spans


def request_span(headers: RawHeaders) -> AbstractContextManager[Span | None]:
    """Begin the span of a request; None while tracing is off."""
    spans = _Switch.spans
    return _OFF if spans is None else spans.of_request(headers)


def span(name: str, **attributes: Any) -> AbstractContextManager[Any]:
    """Begin a span under the current one."""
    spans = _Switch.spans
    return _OFF if spans is None else spans.within(name, attributes)


def span_under(parent: Parent, name: str, **attributes: Any) -> AbstractContextManager[Any]:
    """Begin a span under the given one, or a new trace."""
    spans = _Switch.spans
    return _OFF if spans is None else spans.under(parent, name, attributes)


def here() -> Parent:
    """Return the current span, for `span_under`."""
    spans = _Switch.spans
    return None if spans is None else spans.here()


def trace_headers() -> dict[str, str]:
    """Return the headers that name the current span elsewhere; empty while tracing is off."""
    spans = _Switch.spans
    return {} if spans is None else spans.headers()


def closing(spans: Spans) -> Callable[[], None]:
    """Return a function that switches tracing off and sends the rest. It may block."""

    def close() -> None:
        switch(None)
        spans.close()

    return close
