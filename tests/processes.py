"""A real gateway process for tests, that can be ended in every way and started again.

It shares no code with the program: what is proven here must not rest on what it proves.
"""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NoReturn, Self

import httpx
import pytest

from tests.support import prefork
from tests.support.clients import local_client
from tests.support.waiting import until

START_SECONDS = 120.0
EXIT_SECONDS = 120.0
# Longer than a request may ask the gateway to wait (`Prefer: wait=60`), which it then answers.
CALL_SECONDS = 120.0
LOG_CHARS_SHOWN = 8000
BAMBOO = (sys.executable, "-m", "bamboo_gateway")
REPOSITORY = Path(__file__).resolve().parent.parent
# Control frames: they are no part of the log.
CONTROL_TYPES = frozenset({"open", "heartbeat", "goodbye"})


def lacking(what: str) -> NoReturn:
    """End a test for lack of a program: skipped, or failed where everything has to be there."""
    if os.environ.get("REQUIRE_SERVICES") == "1":
        pytest.fail(f"REQUIRE_SERVICES=1, but this machine lacks {what}")
    pytest.skip(f"this machine lacks {what}")


def program(*names: str) -> str:
    """Return the path of the first of these programs that there is, or end the test."""
    for name in names:
        if found := shutil.which(name):
            return found
    lacking(" or ".join(names))


def free_port() -> int:
    """Return a port nobody listens on.

    Below the range from which the kernel takes ports for outgoing connections: one of those could
    take the port between two lives of a gateway, or connect to itself.
    """
    # Of the machine's own chance: Hypothesis seeds `random` alike in all processes that run tests.
    chance = random.SystemRandom()
    while True:
        port = chance.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def environment(**settings: str) -> dict[str, str]:
    """Return the environment without this machine's own BAMBOO_… and proxies, and with these."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("BAMBOO_") and not name.lower().endswith("_proxy")
    }
    return {**kept, **settings}


def start_program(
    command: Sequence[str],
    environment: Mapping[str, str],
    directory: Path,
    streams: tuple[IO[bytes], IO[bytes], IO[bytes]],
    *,
    fresh: bool = False,
) -> subprocess.Popen[bytes] | prefork.Child:
    """Start a command; `bamboo` is forked with its imports done, unless it has to be fresh."""
    is_bamboo = tuple(command[: len(BAMBOO)]) == BAMBOO
    if is_bamboo and not fresh and prefork.can_start(environment):
        return prefork.start(command[len(BAMBOO) :], environment, directory, streams)
    stdin, stdout, stderr = streams
    return subprocess.Popen(
        command, cwd=directory, env=environment, stdin=stdin, stdout=stdout, stderr=stderr
    )


class Gateway:
    """`bamboo serve` on one port and data directory, in any number of lives.

    Attributes:
        fresh: Whether it is started as a fresh interpreter, and not forked (see `prefork`).
        url: Its address.
        http: A client for paths below `/api/v1`.
        log: What it has written to stdout and stderr, in all its lives.
    """

    fresh = False

    def __init__(
        self,
        directory: Path,
        settings: Mapping[str, str] | None = None,
        flags: Sequence[str] = (),
        *,
        program: Sequence[str] = BAMBOO,
        working_directory: Path = REPOSITORY,
    ) -> None:
        self.port = free_port()
        self.data_dir = directory / "data"
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = local_client(base_url=f"{self.url}/api/v1", timeout=CALL_SECONDS)
        self.process: subprocess.Popen[bytes] | prefork.Child | None = None
        self._log_path = directory / "gateway.log"
        self._environment = environment(**dict(settings or {}))
        self._flags = tuple(flags)
        self._program = tuple(program)
        self._working_directory = working_directory

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, error: object, *_: object) -> None:
        self.http.close()
        if self.process is not None and self.process.poll() is None:
            self.kill()
        if error:
            print("The gateway's log ends with:", self.log[-LOG_CHARS_SHOWN:], sep="\n")

    @property
    def log(self) -> str:
        return self._log_path.read_text(encoding="utf-8", errors="replace")

    def command(self) -> list[str]:
        """Return the command line it is started with."""
        where = ["--port", str(self.port), "--data-dir", str(self.data_dir)]
        return [*self._program, "serve", *where, *self._flags]

    def start(self) -> Self:
        """Start it, and return when it is ready."""
        self.launch()
        until(self._is_ready, "the gateway is ready", START_SECONDS)
        return self

    def launch(self) -> None:
        """Start it, without waiting."""
        with self._log_path.open("ab") as log, Path(os.devnull).open("rb") as nothing:
            self.process = start_program(
                self.command(),
                self._environment,
                self._working_directory,
                (nothing, log, log),
                fresh=self.fresh,
            )

    def kill(self) -> None:
        """End it without a warning (SIGKILL)."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(EXIT_SECONDS)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let it stand still for a while (SIGSTOP, SIGCONT)."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def interrupt(self) -> None:
        """Ask it to end (SIGTERM), without waiting."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)

    def stop(self) -> int:
        """Ask it to end (SIGTERM), waits, and return its exit code."""
        self.interrupt()
        return self.exit_code()

    def exit_code(self) -> int:
        """Wait for its end."""
        assert self.process is not None
        return self.process.wait(EXIT_SECONDS)

    def call(self, method: str, path: str, **request: Any) -> Any:
        """Call the gateway and return the JSON of an answer that must be a good one."""
        response = self.http.request(method, path, **request)
        assert response.is_success, f"{method} {path}: {response.status_code} {response.text}"
        return response.json() if response.content else None

    def events(self, session_id: str) -> list[dict[str, Any]]:
        """Return a session's whole log, page by page."""
        found: list[dict[str, Any]] = []
        after = "0"
        while True:
            page = self.call(
                "GET", f"/sessions/{session_id}/events", params={"after": after, "limit": 1000}
            )
            found += page["events"]
            if not page["has_more"]:
                return found
            after = page["next"]

    def _is_ready(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            pytest.fail(f"the gateway ended with {self.process.returncode}:\n{self.log}")
        try:
            return self.http.get("/health/ready").status_code == 200
        except httpx.TransportError:
            return False


class FreshGateway(Gateway):
    """A gateway that is never forked, for tests that look at its memory: no page is shared."""

    fresh = True
