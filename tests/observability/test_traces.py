"""Traces: from a request to its commit, its run and the agent's service; off, nothing at all."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from queue import Queue
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode, format_span_id, format_trace_id
from typing_extensions import override

from bamboo_gateway.main import create_app
from bamboo_gateway.observability import tracing
from bamboo_gateway.observability.factory import TracingUnavailable
from bamboo_gateway.observability.otel import OtelSpans
from bamboo_gateway.settings import Settings
from tests.api.serving import SECONDS, Served, serving
from tests.processes import REPOSITORY, environment
from tests.support.http_servers import http_server
from tests.support.waiting import until

TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"


@contextmanager
def service(answer: bytes, media_type: str) -> Iterator[tuple[str, Queue[tuple[Any, bytes]]]]:
    """A real HTTP server with one answer; gives its URL and what it is sent."""
    asked: Queue[tuple[Any, bytes]] = Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            asked.put((self.headers, body))
            self.send_response(200)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        @override
        def log_message(self, *args: Any) -> None:
            pass

    with http_server(Handler) as port:
        yield f"http://127.0.0.1:{port}", asked


ANSWER = b'{"type":"token","content":"Hi."}\n{"type":"complete"}\n'


@pytest.fixture
def agent() -> Iterator[tuple[str, Queue[tuple[Any, bytes]]]]:
    with service(ANSWER, "application/x-ndjson") as running:
        yield running


@pytest.fixture
def spans() -> Iterator[Callable[[], dict[str, ReadableSpan]]]:
    """Trace into memory; return the spans that have ended, by name."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    made = OtelSpans(provider)
    tracing.switch(made)
    yield lambda: {span.name: span for span in exporter.get_finished_spans()}
    tracing.closing(made)()


def chat(served: Served, headers: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    with served.client() as api:
        turn = {"session_id": "s", "message": "what was said", "title": "a title", **more}
        answer = api.post("/chat", json=turn, headers={"Prefer": "wait=60", **(headers or {})})
        assert answer.status_code == 200
        return dict(answer.json())


def ids(span: ReadableSpan) -> tuple[str, str]:
    context = span.get_span_context()
    assert context is not None
    return format_trace_id(context.trace_id), format_span_id(context.span_id)


def parent_of(span: ReadableSpan) -> str | None:
    return format_span_id(span.parent.span_id) if span.parent else None


def test_a_clients_trace_goes_through_the_request_its_commit_and_its_run_to_the_agent(
    agent: tuple[str, Queue[tuple[Any, bytes]]], spans: Callable[[], dict[str, ReadableSpan]]
) -> None:
    url, asked = agent
    with serving(agents={"default": url}) as served:
        turn = chat(served, {"traceparent": TRACEPARENT, "X-Request-Id": "r-1"})
        until(lambda: len(spans()) == 3, "all spans have ended")
    request, commit, run = (spans()[name] for name in ("POST /api/v1/chat", "commit", "run"))
    assert {ids(span)[0] for span in (request, commit, run)} == {TRACE_ID}
    assert parent_of(request) == SPAN_ID
    assert parent_of(commit) == parent_of(run) == ids(request)[1]
    headers, _ = asked.get(timeout=SECONDS)
    assert headers["traceparent"] == f"00-{TRACE_ID}-{ids(run)[1]}-01"
    assert dict(run.attributes or {}) == {
        "bamboo.session_id": "s",
        "bamboo.run_id": turn["run_id"],
        "bamboo.agent": "default",
    }
    assert (request.attributes or {})["http.route"] == "/api/v1/chat"
    assert (request.attributes or {})["http.response.status_code"] == 200
    assert (request.attributes or {})["bamboo.request_id"] == "r-1"
    told = " ".join(span.to_json() for span in spans().values())
    assert "what was said" not in told
    assert "a title" not in told


@pytest.mark.parametrize("sent", ["", "00-0-0-01", f"{TRACEPARENT}\xff", "x" * 1000])
def test_an_invalid_traceparent_begins_a_new_trace(
    sent: str, spans: Callable[[], dict[str, ReadableSpan]]
) -> None:
    with serving() as served, served.client() as api:
        headers = [(b"traceparent", sent.encode("latin-1"))]
        assert api.get("/sessions", headers=headers).status_code == 200
    request = spans()["GET /api/v1/sessions"]
    assert request.parent is None
    assert ids(request)[0] != TRACE_ID


def test_a_queued_run_is_a_trace_of_its_own(
    agent: tuple[str, Queue[tuple[Any, bytes]]], spans: Callable[[], dict[str, ReadableSpan]]
) -> None:
    agents = {"default": "demo:", "service": agent[0]}
    with serving(agents=agents) as served, served.client() as api:
        held = {"session_id": "s", "message": "m", "run_id": "held", "options": {"hold": "start"}}
        api.post("/chat", json=held)
        turn = {"session_id": "s", "message": "m", "agent": "service", "run_id": "waits"}
        api.post("/chat", json=turn, headers={"traceparent": TRACEPARENT})
        api.post("/sessions/s/runs/held/cancel")
        api.get("/sessions/s/runs/waits", headers={"Prefer": "wait=60"})
    run = spans()["run"]  # the later one; all have ended with the gateway
    assert (run.attributes or {})["bamboo.run_id"] == "waits"
    assert run.parent is None
    assert agent[1].get(timeout=SECONDS)[0]["traceparent"].split("-")[1] == ids(run)[0]


def test_an_unexpected_exception_is_an_error_span_without_its_text(
    spans: Callable[[], dict[str, ReadableSpan]], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("what was said")

    with serving() as served, served.client() as api:
        monkeypatch.setattr(served.app.state.manager, "list_sessions", broken)
        assert api.get("/sessions").status_code == 500
    request = spans()["GET /api/v1/sessions"]
    assert request.status.status_code == StatusCode.ERROR
    assert "what was said" not in request.to_json()


def test_spans_are_sent_over_otlp_when_an_endpoint_is_set() -> None:
    with service(b"", "application/x-protobuf") as (url, sent):
        with serving(otel_endpoint=f"{url}/", agents={"default": "demo:?delay_ms=0"}) as served:
            chat(served)
        request = ExportTraceServiceRequest()
        names: set[str] = set()
        while not names >= {"POST /api/v1/chat", "commit", "run"}:
            request.ParseFromString(sent.get(timeout=SECONDS)[1])
            for resource in request.resource_spans:
                named = {one.key: one.value.string_value for one in resource.resource.attributes}
                assert named["service.name"] == "bamboo-gateway"
                names |= {span.name for scope in resource.scope_spans for span in scope.spans}
    assert tracing.here() is None, "it is off again"


def test_without_an_endpoint_nothing_is_imported_and_no_header_is_sent(
    agent: tuple[str, Queue[tuple[Any, bytes]]],
) -> None:
    with serving(agents={"default": agent[0]}) as served:
        chat(served, {"traceparent": TRACEPARENT})
    assert agent[1].get(timeout=SECONDS)[0]["traceparent"] is None
    code = (
        "import sys, json; from bamboo_gateway.main import create_app; "
        "from bamboo_gateway.settings import Settings; "
        "create_app(Settings(storage_url='memory:')); "
        "print(json.dumps(list(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    imported = json.loads(done.stdout)
    assert "bamboo_gateway.observability.tracing" in imported
    # FastAPI looks for OpenTelemetry's API by itself; what costs anything is the SDK.
    heavy = ("bamboo_gateway.observability.otel", "opentelemetry.sdk", "opentelemetry.exporter")
    assert [name for name in imported if name.startswith(heavy)] == []


def test_without_the_extra_a_gateway_that_should_trace_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "bamboo_gateway.observability.otel", None)
    settings = Settings(storage_url="memory:", otel_endpoint="http://127.0.0.1:4318")
    with pytest.raises(TracingUnavailable, match=r"bamboo-gateway\[otel\]"):
        create_app(settings)
