"""Traces, when they are asked for: a span for each request, its commit, and each run.

Off, nothing of OpenTelemetry's SDK is imported, and a span costs a look at one variable. Spans name
routes, sessions and runs; what is said is in none of them, nor what exceptions say.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, Protocol

RawHeaders = Iterable[tuple[bytes, bytes]]
Parent = Any
"""Where a span belongs: what `here` gave, or None for a trace of its own."""


class Span(Protocol):
    """What is said of a span while it lasts."""

    def answered(self, name: str, attributes: dict[str, Any], *, failed: bool) -> None:
        """Gives a request's span its name, what became of it, and whether it failed."""


class Spans(Protocol):
    """What makes spans; `observability.otel` does."""

    def of_request(self, headers: RawHeaders) -> AbstractContextManager[Span]:
        """Begins a span under the trace that the request names (W3C `traceparent`), if any."""

    def within(self, name: str, attributes: dict[str, Any]) -> AbstractContextManager[Any]:
        """Begins a span under the present one."""

    def under(
        self, parent: Parent, name: str, attributes: dict[str, Any]
    ) -> AbstractContextManager[Any]:
        """Begins a span under a given one."""

    def here(self) -> Parent:
        """Gives the present span, for one that begins in another task."""

    def headers(self) -> dict[str, str]:
        """Gives the headers that name the present span to another service."""

    def close(self) -> None:
        """Sends what has ended, and stops. May block."""


_OFF: Final[AbstractContextManager[None]] = nullcontext()


class _Switch:
    """The process's one tracing, as OpenTelemetry's own context is the process's."""

    spans: Spans | None = None


def switch(spans: Spans | None) -> None:
    """Switches tracing on, or off with None."""
    _Switch.spans = spans


def request_span(headers: RawHeaders) -> AbstractContextManager[Span | None]:
    """Begins a request's span; None while tracing is off."""
    spans = _Switch.spans
    return _OFF if spans is None else spans.of_request(headers)


def span(name: str, **attributes: Any) -> AbstractContextManager[Any]:
    """Begins a span under the present one."""
    spans = _Switch.spans
    return _OFF if spans is None else spans.within(name, attributes)


def span_under(parent: Parent, name: str, **attributes: Any) -> AbstractContextManager[Any]:
    """Begins a span under a given one, or a trace of its own."""
    spans = _Switch.spans
    return _OFF if spans is None else spans.under(parent, name, attributes)


def here() -> Parent:
    """Gives the present span, for `span_under`."""
    spans = _Switch.spans
    return None if spans is None else spans.here()


def trace_headers() -> dict[str, str]:
    """Gives the headers that name the present span to another service; none while off."""
    spans = _Switch.spans
    return {} if spans is None else spans.headers()


def closing(spans: Spans) -> Callable[[], None]:
    """Gives what switches tracing off, and sends the rest. May block."""

    def close() -> None:
        switch(None)
        spans.close()

    return close
