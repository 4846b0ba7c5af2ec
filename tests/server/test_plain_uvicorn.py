"""The app under plain uvicorn, started by its own command and not by `bamboo serve`."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from httpx_sse import EventSource, connect_sse
from starlette.types import Message

from bamboo_gateway.main import create_app
from bamboo_gateway.settings import Settings
from tests.api.serving import SECONDS
from tests.processes import EXIT_SECONDS, environment, free_port
from tests.support.waiting import until

COMMAND = (sys.executable, "-m", "uvicorn", "bamboo_gateway.main:create_app", "--factory")


@contextmanager
def plain_uvicorn(log: Path, *arguments: str, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    variables = {f"BAMBOO_{name.upper()}": value for name, value in settings.items()}
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [*COMMAND, *arguments], stdout=output, stderr=output, env=environment(**variables)
        ) as process,
    ):
        try:
            yield process
        except BaseException:
            print("The server's log:", log.read_text(encoding="utf-8"), sep="\n")
            raise
        finally:
            if process.poll() is None:
                process.kill()


def frames(source: EventSource) -> Iterator[dict[str, Any]]:
    for event in source.iter_sse():
        yield event.json()


def is_live(api: httpx.Client) -> bool:
    try:
        return api.get("/health/ready").status_code == 200
    except httpx.TransportError:
        return False


def test_the_command_serves_chats_and_a_signal_ends_it_with_goodbyes(tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    with (
        plain_uvicorn(log, "--port", str(port), data_dir=str(tmp_path / "data")) as process,
        httpx.Client(
            base_url=f"http://127.0.0.1:{port}/api/v1", timeout=SECONDS, trust_env=False
        ) as api,
    ):
        until(lambda: is_live(api) or process.poll() is not None, "it is ready")
        assert process.poll() is None, log.read_text()
        body = {"session_id": "s-1", "message": "Hello!", "options": {"delay_ms": 0}}
        with connect_sse(api, "POST", "/chat", json=body) as answer:
            types = [frame["type"] for frame in frames(answer)]
        assert "complete" in types
        assert api.get("/sessions/s-1/messages").json()["messages"][1]["role"] == "assistant"

        with connect_sse(api, "GET", "/stream/s-1") as idle:
            shown = frames(idle)
            assert next(shown)["type"] == "open"
            process.send_signal(signal.SIGTERM)
            last = list(shown)[-1]
        assert (last["type"], last["reason"]) == ("goodbye", "shutdown")
        # uvicorn ends itself with the signal that it was sent, when all is closed.
        assert process.wait(EXIT_SECONDS) == -signal.SIGTERM
    assert "Traceback" not in log.read_text()


def test_a_chat_at_work_ends_as_interrupted_when_the_drain_is_over(tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    settings = {"storage_url": "memory:", "drain_timeout_seconds": "0"}
    with (
        plain_uvicorn(log, "--port", str(port), **settings) as process,
        httpx.Client(
            base_url=f"http://127.0.0.1:{port}/api/v1", timeout=SECONDS, trust_env=False
        ) as api,
    ):
        until(lambda: is_live(api) or process.poll() is not None, "it is ready")
        body = {"session_id": "s-1", "message": "Hello!", "options": {"delay_ms": 60_000}}
        with connect_sse(api, "POST", "/chat", json=body) as answer:
            shown = frames(answer)
            assert next(shown)["type"] == "open"
            process.send_signal(signal.SIGTERM)
            (error,) = [frame for frame in shown if frame["type"] == "error"]
        assert error["code"] == "interrupted"
        assert process.wait(EXIT_SECONDS) == -signal.SIGTERM


def test_a_wrong_setting_of_the_environment_stops_the_start(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with plain_uvicorn(log, "--port", str(free_port()), durability="perhaps") as process:
        assert process.wait(EXIT_SECONDS) != 0
    assert "durability" in log.read_text()


def test_an_embedded_app_installs_no_signal_handlers() -> None:
    before = signal.getsignal(signal.SIGTERM)

    async def enter() -> None:
        app = create_app(Settings(storage_url="memory:"))
        async with app.router.lifespan_context(app):
            assert signal.getsignal(signal.SIGTERM) is before

    anyio.run(enter)


@pytest.mark.parametrize(
    ("address", "settings", "status"),
    [
        ("127.0.0.1", {}, 200),
        ("::1", {}, 200),
        ("::ffff:127.0.0.1", {}, 200),
        ("/run/bamboo.sock", {}, 200),
        ("192.0.2.1", {}, 403),
        ("2001:db8::1", {}, 403),
        ("fe80::1%eth0", {}, 403),
        ("192.0.2.1", {"insecure": True}, 200),
        ("192.0.2.1", {"api_keys": ["k" * 40]}, 200),
    ],
)
def test_without_credentials_only_a_loopback_address_is_served(
    address: str, settings: dict[str, object], status: int
) -> None:
    """A server that this program does not start may listen on any address."""
    app = create_app(Settings(storage_url="memory:", **settings))  # type: ignore[arg-type]
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def ask() -> None:
        async with app.router.lifespan_context(app):
            scope = {
                "type": "http",
                "method": "GET",
                "path": "/api/v1/health/live",
                "raw_path": b"/api/v1/health/live",
                "query_string": b"",
                "headers": [(b"host", b"localhost")],
                "server": (address, 8080),
                "client": ("192.0.2.9", 1),
            }
            await app(scope, receive, send)

    anyio.run(ask)
    assert sent[0]["status"] == status
