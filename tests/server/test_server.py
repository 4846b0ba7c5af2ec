"""The server around the app: its start, what stops the start, and its end."""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from anyio import to_thread
from typing_extensions import override

from bamboo_gateway import main
from bamboo_gateway.server import server
from bamboo_gateway.settings import Settings
from bamboo_gateway.storage.base import Done
from bamboo_gateway.storage.commits import Commit
from bamboo_gateway.storage.memory import MemoryStore
from bamboo_gateway.storage.reports import RecoveryReport
from tests.api.serving import SECONDS, Served, refused, serving
from tests.faults.wire import Wire, metric
from tests.support.waiting import until


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """`serve` sets up the logging of its process; the tests' own is put back."""
    root = logging.getLogger()
    kept, level, words = root.handlers, root.level, structlog.get_config()
    yield
    root.handlers = kept
    root.setLevel(level)
    structlog.configure(**words)


def settings(**values: Any) -> Settings:
    return Settings(**{"storage_url": "memory:", "port": 0, **values})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_a_non_loopback_address_needs_keys_or_insecure(
    host: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert server.serve(settings(host=host)) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "BAMBOO_API_KEYS" in line
    assert "--insecure" in line


@pytest.mark.parametrize("host", ["no such host", "x" * 300, "nowhere.invalid"])
def test_an_unknown_host_stops_the_start_with_one_line(
    host: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert server.serve(settings(host=host)) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_an_address_of_another_machine_stops_the_start_with_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert server.serve(settings(host="192.0.2.1", insecure=True)) == 1
    assert "192.0.2.1" in capsys.readouterr().err


def test_a_port_in_use_stops_the_start_with_one_line_and_touches_no_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        data = tmp_path / "data"
        assert server.serve(settings(port=port, storage_url="jsonl:", data_dir=data)) == 1
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert str(port) in line
    assert not data.exists()


def test_requests_during_recovery_wait_and_health_reports_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    may_open = threading.Event()

    class SlowStore(MemoryStore):
        @override
        async def open(self) -> RecoveryReport:
            await to_thread.run_sync(may_open.wait, SECONDS)
            return await super().open()

    monkeypatch.setattr(main, "make_store", lambda settings, clock: SlowStore(clock))
    with serving(until_started=False) as served, served.client() as api:
        try:
            assert api.get("/health/live").status_code == 200
            early = Wire(served.port, "/stream/early?from=start")
            refused(api.get("/health/ready"), 503, "unavailable")
            assert "recovering" in api.get("/health/ready").json()["detail"]
            assert api.get("/health/ready").json()["check"] == "recovery"
            assert metric(api, "ready") == 0
        finally:
            may_open.set()
        until(lambda: api.get("/health/ready").status_code == 200, "it is ready")
        assert api.get("/sessions").json()["sessions"] == []
        assert metric(api, "ready") == 1
        # Who came too soon has waited: refused, an EventSource would never come back.
        with early.sock:
            early.take_until(b"session-not-found")


@pytest.mark.parametrize(
    ("values", "exit_code"),
    [
        ({"agents": {"default": "telepathy:"}}, 2),
        ({"storage_url": "jsonl:", "data_dir": Path("/dev/null/x")}, 1),
    ],
)
def test_an_unusable_setting_stops_the_start_with_one_line(
    values: dict[str, Any], exit_code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert server.serve(settings(**values)) == exit_code
    assert capsys.readouterr().err.startswith("error: ")


def test_localhost_is_served_on_every_loopback_address_of_one_port() -> None:
    addresses = server.resolve(settings(host="localhost"))
    sockets = server._bind(settings(host="localhost"), addresses)
    try:
        assert len({sock.getsockname()[1] for sock in sockets}) == 1
        assert {sock.family for sock in sockets} >= {socket.AF_INET}
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            for sock in sockets:
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000
    finally:
        for sock in sockets:
            sock.close()


def test_the_first_output_is_two_curl_commands_that_work() -> None:
    environment = {**os.environ, "BAMBOO_STORAGE_URL": "memory:", "PYTHONUNBUFFERED": ""}
    with subprocess.Popen(
        [sys.executable, "-m", "bamboo_gateway", "serve", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    ) as process:
        assert process.stdout is not None
        try:
            process.stdout.readline()
            lines = [process.stdout.readline().strip() for _ in range(2)]
            assert all(line.startswith("curl ") for line in lines)
            outputs = [
                subprocess.run(
                    line, shell=True, capture_output=True, text=True, timeout=SECONDS, check=True
                ).stdout
                for line in lines
            ]
            assert '"type":"complete"' in outputs[0]
            assert '"role":"assistant"' in outputs[1]
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(SECONDS) == 0


def test_the_address_is_shown_as_a_client_can_use_it() -> None:
    assert "http://127.0.0.1:9/" in server._welcome(settings(host="0.0.0.0"), 9, asks_for_key=False)
    assert "http://[::1]:9/" in server._welcome(settings(host="::"), 9, asks_for_key=False)
    shown = server._welcome(settings(api_keys=("secret",)), 9, asks_for_key=True)
    assert "Bearer YOUR-KEY" in shown
    assert "secret" not in shown


def test_a_second_signal_skips_the_drain() -> None:
    with serving(drain_timeout_seconds=600) as served, served.client() as api:
        held = {"message": "x", "session_id": "s", "options": {"hold": "start"}}
        assert api.post("/chat", json=held).status_code == 202
        served.server.begin_exit()
        until(lambda: api.get("/health/ready").status_code == 503, "it drains")
        refused = api.post("/chat", json=held)
        assert refused.json()["code"] == "draining"
        assert api.get("/sessions/s").status_code == 200


def is_polled(served: Served) -> bool:
    channel = served.app.state.manager._channels.get("s")
    return channel is not None and bool(channel._change_waiters)


def test_the_drain_wakes_a_long_poll() -> None:
    with serving() as served, served.client() as api:
        api.post("/sessions", json={"id": "s"})
        position = api.get("/sessions/s").json()["position"]
        answers: list[httpx.Response] = []

        def poll() -> None:
            with served.client() as other:
                params = {"after": position, "wait": "60"}
                answers.append(other.get("/sessions/s/events", params=params))

        thread = threading.Thread(target=poll)
        thread.start()
        until(lambda: is_polled(served), "somebody waits")
        served.server.begin_exit()
        thread.join(SECONDS)
        assert [answer.status_code for answer in answers] == [200]


def test_a_request_that_the_end_of_the_process_cuts_off_may_be_sent_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "_CLOSE_SECONDS", 0.2)
    unanswered: list[Commit] = []

    def hold(_: MemoryStore, commit: Commit, __: Done) -> None:
        unanswered.append(commit)

    with serving(drain_timeout_seconds=0) as served, served.client() as api:
        api.post("/sessions", json={"id": "s"})
        monkeypatch.setattr(MemoryStore, "append", hold)
        answers: list[httpx.Response] = []

        def post() -> None:
            with served.client() as other:
                answers.append(
                    other.post("/sessions/s/events", json={"type": "custom", "name": "n"})
                )

        thread = threading.Thread(target=post)
        thread.start()
        until(lambda: unanswered, "the store has the commit")
        served.server.begin_exit()
        thread.join(SECONDS)
    [answer] = answers
    refused(answer, 503, "draining")
    assert "Idempotency-Key" in answer.json()["detail"]


def test_a_failed_start_leaves_nothing_open(tmp_path: Path) -> None:
    """The second of two gateways on one directory fails, and can start when the first has gone."""
    data: dict[str, Any] = {"storage_url": "jsonl:", "data_dir": tmp_path / "data"}
    with serving(**data), pytest.raises(Exception, match="process"), serving(**data):
        pass
    with serving(**data) as served, served.client() as api:
        assert api.get("/sessions").status_code == 200
