"""R11: every read of a long session holds a bounded part of it in memory."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import FreshGateway, Gateway

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the peak is read and reset in /proc"
)

MiB = 1024 * 1024
BOUND_BYTES = 64 * MiB
"""What one request may cost, whatever session it is about."""

# The quick form is just over the bound: what holds a session whole, even once, is found.
SESSIONS_MB = (72, pytest.param(200, marks=pytest.mark.slow))
READS = (
    "/messages?limit=1000",
    "/messages?limit=1000&order=desc",
    "/events?limit=1000",
    "/events?limit=1000&order=desc",
    "/events?limit=1000&type=run_start",
    "?include_messages=true",
    "/resume",
    "/statistics",
    "/report",
    "/tree",
    "/runs?limit=1000",
)


class Peak:
    """What a process has taken at most since this was made."""

    def __init__(self, gateway: Gateway) -> None:
        assert gateway.process is not None
        self._files = Path(f"/proc/{gateway.process.pid}")
        self._before = self._bytes("VmRSS")
        (self._files / "clear_refs").write_text("5")

    def _bytes(self, name: str) -> int:
        for line in (self._files / "status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"no {name}")

    @property
    def grown_bytes(self) -> int:
        return self._bytes("VmHWM") - self._before


@pytest.fixture(scope="module", params=SESSIONS_MB)
def gateway(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """Serve the session `s`, of so many messages of a megabyte, from its files."""
    with FreshGateway(tmp_path_factory.mktemp("pages")) as served:
        served.call("POST", "/sessions", json={"id": "s"})
        message = {"role": "user", "content": "x" * 1_000_000}
        for _ in range(request.param):
            served.call("POST", "/sessions/s/messages", json=message)
        served.stop()
        yield served.start()


@pytest.mark.parametrize("path", READS)
def test_a_read_takes_a_bounded_part_of_a_long_session(gateway: Gateway, path: str) -> None:
    peak = Peak(gateway)
    with gateway.http.stream("GET", f"/sessions/s{path}") as answer:
        assert answer.status_code == 200
        for _ in answer.iter_raw():
            pass
    assert peak.grown_bytes <= BOUND_BYTES


def test_a_chat_takes_the_part_of_a_long_session_that_its_agent_uses(gateway: Gateway) -> None:
    peak = Peak(gateway)
    chat = {"session_id": "s", "message": "hi", "options": {"delay_ms": 0}}
    run = gateway.call("POST", "/chat", json=chat, headers={"Prefer": "wait=60"})
    assert run["status"] == "completed"
    assert peak.grown_bytes <= BOUND_BYTES
