"""R11: the process returns the memory of large requests, however they end.

A real process is measured from outside. That a request leaves nothing to the garbage collector is
held by `tests/api/test_garbage.py`, and when memory is looked after by `test_keeper.py`.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.memory.clients import (
    BIG,
    CLOSED,
    RIGHT_ENDS,
    WRONG_ENDS,
    Route,
    abandon,
    givers,
    has_right_body,
    send,
    takers,
)
from tests.processes import FreshGateway, Gateway
from tests.support.waiting import until

GROWTH_BYTES_MAX = 100_000_000
MESSAGES = 24
# A round of the quick form takes or gives 150 MB or more: each request that is kept shows.
ROUNDS = 2
REQUESTS = 200

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="only Linux tells what a process holds"
)


class Measured:
    """A gateway with a large session, and what it held when it had just started."""

    def __init__(self, gateway: Gateway) -> None:
        self.port = gateway.port
        self._gateway = gateway
        self._before = self.held()

    def held(self) -> int:
        """Return the resident memory of the process, in bytes."""
        process = self._gateway.process
        assert process is not None
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
        (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
        return int(line.split()[1]) * 1024

    def check(self) -> None:
        """Wait until the memory is returned."""
        until(
            lambda: self.held() - self._before <= GROWTH_BYTES_MAX,
            lambda: f"{self.held():,} bytes are {self._before:,} again, and 100 MB at most",
        )
        assert self._gateway.http.get("/health/ready").status_code == 200


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Measured]:
    settings = {"BAMBOO_DURABILITY": "os"}
    with FreshGateway(tmp_path_factory.mktemp("memory"), settings) as gateway:
        for session_id in (BIG, CLOSED):
            gateway.call("POST", "/sessions", json={"id": session_id})
        message = {"role": "user", "content": "x" * 1_000_000}
        for _ in range(MESSAGES):
            gateway.call("POST", f"/sessions/{BIG}/messages", json=message)
        gateway.call("POST", f"/sessions/{CLOSED}/close")
        gateway.stop()
        yield Measured(gateway.start())


@pytest.mark.parametrize("end", WRONG_ENDS)
def test_memory_of_large_requests_is_returned(measured: Measured, end: str) -> None:
    for route in takers() * ROUNDS:
        send(measured.port, route, end)
    measured.check()


@pytest.mark.parametrize("end", RIGHT_ENDS)
def test_memory_of_large_requests_that_are_refused_late_is_returned(
    measured: Measured, end: str
) -> None:
    for route in [*filter(has_right_body, takers())] * 4 * ROUNDS:
        send(measured.port, route, end)
    measured.check()


def test_memory_of_large_answers_is_returned(measured: Measured) -> None:
    for route in givers() * ROUNDS:
        abandon(measured.port, route)
    measured.check()


@pytest.mark.slow
@pytest.mark.parametrize("end", WRONG_ENDS)
@pytest.mark.parametrize("route", takers(), ids=str)
def test_memory_of_many_large_requests_is_returned(
    measured: Measured, route: Route, end: str
) -> None:
    for _ in range(REQUESTS):
        send(measured.port, route, end)
    measured.check()


@pytest.mark.slow
@pytest.mark.parametrize("end", RIGHT_ENDS)
@pytest.mark.parametrize("route", [*filter(has_right_body, takers())], ids=str)
def test_memory_of_many_large_requests_that_are_refused_late_is_returned(
    measured: Measured, route: Route, end: str
) -> None:
    for _ in range(REQUESTS):
        send(measured.port, route, end)
    measured.check()


@pytest.mark.slow
@pytest.mark.parametrize("route", givers(), ids=str)
def test_memory_of_many_large_answers_is_returned(measured: Measured, route: Route) -> None:
    for _ in range(REQUESTS):
        abandon(measured.port, route)
    measured.check()
