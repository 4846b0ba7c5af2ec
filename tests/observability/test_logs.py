"""The log: a line a request, in context, without secrets and content, and without a way in."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
import structlog
from structlog.contextvars import bind_contextvars, clear_contextvars
from typing_extensions import override

from bamboo_gateway.api.access_log import RequestLog, RequestRecord
from bamboo_gateway.domain.events import Complete
from bamboo_gateway.observability.logs import HandOver, make_formatter, send_logs_to
from tests.api.serving import raw, serving
from tests.processes import Gateway
from tests.support.clients import local_client
from tests.support.clocks import FakeClock
from tests.support.gateways import eventually, gateway
from tests.support.logs import captured_logs

EVIL = "x\n2026-01-01T00:00:00Z [info     ] fake  \x1b[31mred\x1b[0m\r\x9b2J\u2028\u202eend"


@contextmanager
def written(log_format: str, log_level: str = "debug") -> Iterator[list[str]]:
    """Set logging up as the program does; yield what would be written."""
    before = structlog.get_config(), logging.getLogger().handlers[:], logging.getLogger().level
    lines: list[str] = []

    class Kept(HandOver):
        @override
        def enqueue(self, record: logging.LogRecord) -> None:
            lines.append(make_formatter(log_format).format(record))

    send_logs_to(Kept(Queue()), log_level)
    try:
        yield lines
    finally:
        config, handlers, level = before
        structlog.configure(**config)
        logging.getLogger().handlers = handlers
        logging.getLogger().setLevel(level)


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_nothing_that_is_logged_ends_a_line_or_commands_a_terminal(log_format: str) -> None:
    with written(log_format) as lines:
        log = structlog.get_logger("test")
        log.info("request", path=EVIL, ids=[EVIL], anything={EVIL: EVIL})
        log.warning(EVIL)
        logging.getLogger("library").warning("says %s", EVIL)
        bind_contextvars(request_id=EVIL)
        log.info("in context")
        clear_contextvars()
    assert len(lines) == 4
    for line in lines:
        assert line.isprintable(), repr(line)
        assert "end" in line or "fake" in line, "what was logged can still be read"


def log_one_in_context() -> None:
    bind_contextvars(request_id="r-1")
    structlog.get_logger("test").info("request", status=200, caller=None)
    clear_contextvars()


def test_a_line_as_json_has_what_was_said_then_its_context_level_and_time() -> None:
    with written("json") as lines:
        log_one_in_context()
    said = json.loads(lines[0])
    assert list(said) == ["status", "caller", "event", "request_id", "level", "timestamp"]
    assert [*said.values()][:-1] == [200, None, "request", "r-1", "info"]


def test_a_line_on_the_console_has_time_and_level_first_and_the_rest_by_name() -> None:
    with written("console") as lines:
        log_one_in_context()
    time, rest = lines[0].split(" ", 1)
    assert datetime.fromisoformat(time).tzinfo is UTC
    assert rest.split() == ["[info", "]", "request", "caller=None", "request_id=r-1", "status=200"]


def test_lines_below_the_level_are_not_written() -> None:
    with written("json", "warning") as lines:
        log = structlog.get_logger("test")
        for write in (log.debug, log.info, log.warning, log.error, log.critical):
            write("said")
        logging.getLogger("library").info("said")
    assert [json.loads(line)["level"] for line in lines] == ["warning", "error", "critical"]


def test_no_line_of_a_traceback_can_be_taken_for_one_of_the_log() -> None:
    with written("console") as lines:
        structlog.get_logger("test").error("failed", exc_info=RuntimeError(EVIL))
    first, *rest = lines[0].split("\n")
    assert "failed" in first
    assert all(line.startswith("  | ") and line.isprintable() for line in rest)
    assert any("RuntimeError" in line for line in rest)


def test_a_traceback_as_json_is_one_line() -> None:
    with written("json") as lines:
        structlog.get_logger("test").error("failed", exc_info=RuntimeError(EVIL))
    (line,) = lines
    assert "\n" not in line
    assert "RuntimeError" in json.loads(line)["exception"]


def test_a_librarys_lines_have_the_context_of_the_request_that_called_it() -> None:
    with written("json") as lines:
        bind_contextvars(request_id="r-1")
        logging.getLogger("library").warning("says %s", "something")
        clear_contextvars()
    said = json.loads(lines[0])
    assert (said["event"], said["request_id"], said["level"]) == (
        "says something",
        "r-1",
        "warning",
    )


def test_a_pipe_that_nobody_reads_costs_lines_and_never_blocks() -> None:
    handler = HandOver(Queue(1))
    before = HandOver.lost
    record = logging.LogRecord("x", logging.INFO, __file__, 1, "one", None, None)
    for _ in range(5):
        handler.emit(record)
    assert HandOver.lost - before == 4


def requests_of(logs: list[Any]) -> list[Any]:
    return [line for line in logs if line["event"] in {"request", "slow request"}]


def test_each_request_is_one_line_with_its_route_and_never_what_it_asked_for() -> None:
    # A request may be told after its answer was read: the gateway's end comes first.
    with captured_logs() as logs, serving() as served, served.client() as api:
        api.post("/chat", json={"session_id": "s", "message": "m", "options": {"hold": "start"}})
        api.get("/sessions/s?include_messages=true")
        api.head("/sessions/s")
        api.get("/sessions/none", headers={"X-Request-Id": "mine"})
        api.get("/nowhere?key=secret")
        api.get("/health/live")
    told = [
        (line["method"], line["route"], line["status"], line["log_level"], line["caller"])
        for line in requests_of(logs)
    ]
    assert sorted(told) == [
        ("GET", "/api/v1/health/live", 200, "debug", "nobody"),
        ("GET", "/api/v1/sessions/{session_id}", 200, "info", "local"),
        ("GET", "/api/v1/sessions/{session_id}", 404, "info", "local"),
        ("GET", "unmatched", 404, "info", "local"),
        ("HEAD", "/api/v1/sessions/{session_id}", 200, "info", "local"),
        ("POST", "/api/v1/chat", 202, "info", "local"),
    ]
    by_code = {line.get("code"): line for line in requests_of(logs)}
    assert set(by_code) == {None, "session-not-found", "not-found"}
    assert all(line["ms"] >= 0 for line in requests_of(logs))
    assert sum(line["bytes"] for line in requests_of(logs) if line["status"] == 200) > 100
    assert not any("secret" in repr(line) for line in logs)


def test_pipelined_requests_are_logged_with_their_own_context(
    tmp_path: Path,
) -> None:
    with Gateway(tmp_path, {"BAMBOO_LOG_FORMAT": "json", "BAMBOO_STORAGE_URL": "memory:"}) as own:
        own.call("POST", "/sessions", json={"id": "one"})
        lines = [
            b"GET /api/v1/sessions/one HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: a\r\n\r\n",
            b"GET /api/v1/sessions HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: b\r\n"
            b"Connection: close\r\n\r\n",
        ]
        raw(own.port, b"".join(lines))
        assert own.stop() == 0
        told = [json.loads(line) for line in own.log.splitlines() if line.startswith("{")]
    by_id = {line.get("request_id"): line for line in requests_of(told)}
    assert by_id["a"]["session_id"] == "one"
    assert "session_id" not in by_id["b"]


async def test_what_an_agent_logs_names_its_run_and_not_the_request_that_came_before() -> None:
    seen: list[dict[str, Any]] = []
    async with gateway() as gate:
        inner = gate.agent.run

        async def run(turn: Any) -> Any:
            seen.append(structlog.contextvars.get_contextvars())
            async for event in inner(turn):
                yield event

        gate.agent.run = run  # type: ignore[method-assign]
        bind_contextvars(request_id="r-1", session_id="another")
        await gate.chat("s", run_id="first")
        clear_contextvars()
        gate.agent.do("first", Complete())
        await gate.ended("first")
    assert seen == [{"session_id": "s", "run_id": "first"}]


def test_a_request_that_took_too_long_is_a_warning() -> None:
    clock = FakeClock()
    request_log = RequestLog(clock, slow_seconds=5, access_log=False)
    with captured_logs() as logs:
        for seconds in (4.9, 5.1):
            record = RequestRecord("GET", "r", request_log.now())
            record.status = 200
            clock.advance(seconds)
            request_log.record({"path": "/x"}, record)
    (line,) = logs
    assert (line["event"], line["log_level"], line["ms"]) == ("slow request", "warning", 5100)


def test_requests_that_asked_to_wait_are_never_slow() -> None:
    with (
        captured_logs() as logs,
        serving(slow_request_seconds=1e-9, access_log=False) as served,
        served.client() as api,
    ):
        turn = {"session_id": "s", "message": "m", "options": {"delay_ms": 0}}
        api.post("/chat", json=turn, headers={"Prefer": "wait=60"})
        api.get("/sessions/s/events", params={"wait": 1})
        lines = {"Content-Type": "application/x-ndjson"}
        api.post("/sessions/s/events", content=b'{"type":"custom","name":"x"}\n', headers=lines)
        assert requests_of(logs) == []
        api.get("/sessions")
    assert [line["event"] for line in requests_of(logs)] == ["slow request"]


async def test_a_blocked_event_loop_is_counted_and_logged_as_a_warning() -> None:
    with captured_logs() as logs:
        async with gateway(heartbeat_interval_seconds=0.15) as gate:
            lag = (await gate.manager.stats())["loop_lag_seconds"]
            await eventually(lambda: lag.count, "a tick")
            assert not [line for line in logs if "held up" in line["event"]]
            gate.clock.advance(3)  # all that the loop's clock sees of a blocking call
            await eventually(lambda: lag.sum > 2, "the tick that came late")
    (warning,) = [line for line in logs if "held up" in line["event"]]
    assert 2.9 < warning["seconds"] < 3


SECRETS = {
    "key": "sk-operator-key-0001",
    "bad_key": "sk-refused-key-0002",
    "query": "query-value-0003",
    "said": "what-was-said-0004",
    "title": "title-0005",
    "cookie": "cookie-0006",
    "path": "path-0007",
    "metadata": "metadata-0008",
    "answer": "answered-0009",
    "user": "user-agent-0010",
    "basic": "basic-0011",
    "working_dir": "folder-0012",
    "ticket": "ticket-0013",
}


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_neither_secrets_nor_content_nor_line_breaks_get_into_the_log(
    tmp_path: Path, log_format: str
) -> None:
    settings = {
        "BAMBOO_LOG_FORMAT": log_format,
        "BAMBOO_LOG_LEVEL": "debug",
        "BAMBOO_API_KEYS": SECRETS["key"],
        "BAMBOO_SLOW_REQUEST_SECONDS": "0.000001",
    }
    with Gateway(tmp_path, settings) as own:
        send_secrets(own)
        assert own.stop() == 0
        text = own.log
    assert "slow request" in text
    assert "/api/v1/chat" in text
    assert [secret for secret in SECRETS.values() if secret in text] == []
    assert [line for line in text.splitlines() if "INJECTED" in line] == []
    assert "\x1b" not in text
    audit = (own.data_dir / "audit.jsonl").read_text("utf-8")
    assert [secret for secret in SECRETS.values() if secret in audit] == []


def send_secrets(own: Gateway) -> None:
    """Put secrets wherever a client may put something, in requests that work and that fail."""
    headers = {
        "Authorization": f"Bearer {SECRETS['key']}",
        "Cookie": f"session={SECRETS['cookie']}",
        "User-Agent": SECRETS["user"],
        "Referer": f"http://localhost/?key={SECRETS['query']}",
    }
    api = local_client(base_url=own.http.base_url, headers=headers, timeout=100)
    turn = {
        "session_id": "s",
        "message": SECRETS["said"],
        "title": SECRETS["title"],
        "working_dir": SECRETS["working_dir"],
        "metadata": {SECRETS["metadata"]: SECRETS["metadata"]},
        "options": {"text": SECRETS["answer"], "delay_ms": 0},
    }
    with api:
        assert api.post("/chat", json=turn, headers={"Prefer": "wait=60"}).status_code == 200
        api.get("/sessions", params={"title_contains": SECRETS["query"], "x": "\nINJECTED"})
        api.get("/stream/s", params={"after": 0, "until": "complete", "t": SECRETS["query"]})
        api.get("/stream/s", params={"ticket": SECRETS["ticket"], "after": 0, "until": "complete"})
        api.get(f"/{SECRETS['path']}")
        api.get(f"/sessions/{SECRETS['path']}%0aINJECTED%1b[31m")
        api.post("/chat", json={**turn, "options": {"fail": "x", "delay_ms": 0}})
        api.post("/chat", content=json.dumps(turn)[:-5])
        api.post("/chat", json={**turn, "agent": SECRETS["said"]})
        api.post("/import", content=json.dumps({"x": SECRETS["said"]}))
        api.post(
            "/sessions/s/events", json={"type": "custom", "name": "x", "value": SECRETS["said"]}
        )
        api.get("/sessions/s/diagnostics")
        api.post("/archive", json={"session_ids": ["s", f"{SECRETS['said']}\nINJECTED"]})
    for refused in (
        {"Authorization": f"Bearer {SECRETS['bad_key']}"},
        {"Authorization": f"Basic {SECRETS['basic']}"},
    ):
        own.http.get("/sessions", headers=refused)
    raw(own.port, f"GET /{SECRETS['path']} HTTP/1.1\r\nX {SECRETS['user']}\r\n\r\n".encode())
    raw(own.port, f"BREW\x1b[31m /{SECRETS['path']} HTTP/1.1\r\n\r\n".encode())
