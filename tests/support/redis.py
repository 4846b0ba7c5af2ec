"""A real Redis for tests, which can be ended, stopped, emptied and started again."""

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from tests.processes import free_port, program
from tests.support.kept import Kept, ordinary_directory
from tests.support.waiting import until

START_SECONDS = 120.0
_ANSWER_SECONDS = 10.0


class RedisServer:
    """One server, at one port in all its lives; it keeps nothing over its end.

    Attributes:
        port: The port on 127.0.0.1.
    """

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self._directory = directory
        self._kept: Kept | None = None
        self._program = program("redis-server")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The address, as `bus_url` has it."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def log(self) -> str:
        """What the server has written about itself."""
        return (self._directory / "log").read_text(encoding="utf-8", errors="replace")

    def start(self) -> Self:
        """Start it, and return when it answers."""
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self._directory),
            "save": "",
            "appendonly": "no",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        self._kept = Kept(
            [self._program, *words], self._directory, self._directory / "log", end=signal.SIGKILL
        )
        until(self._answers, lambda: f"Redis answers:\n{self.log}", START_SECONDS)
        return self

    def stop(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End it, with all that it has."""
        if self._kept is None:
            return
        if self._kept.is_running:
            self._kept.send(how)
        self._kept.wait()
        self._kept.stop()
        self._kept = None

    def restart(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End it and start it again, at the same port and empty."""
        self.stop(how)
        self.start()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let it stand still for a while (SIGSTOP, SIGCONT); it says nothing."""
        self.send(signal.SIGSTOP)
        try:
            yield
        finally:
            self.send(signal.SIGCONT)

    def send(self, number: signal.Signals) -> None:
        """Send the server a signal."""
        assert self._kept is not None
        self._kept.send(number)

    def flush(self) -> None:
        """Remove every key (FLUSHALL)."""
        assert self.command("FLUSHALL") == "+OK"

    def command(self, line: str) -> str:
        """Execute a command and return the first line of its answer, as the protocol has it."""
        with socket.create_connection(("127.0.0.1", self.port), _ANSWER_SECONDS) as connection:
            connection.sendall(line.encode() + b"\r\n")
            answer = b""
            while b"\r\n" not in answer:
                if not (piece := connection.recv(4096)):
                    break
                answer += piece
        return answer.partition(b"\r\n")[0].decode()

    def _answers(self) -> bool:
        assert self._kept is not None
        assert self._kept.is_running, self.log
        try:
            return self.command("PING") == "+PONG"
        except OSError:
            return False


@contextmanager
def own_redis() -> Iterator[RedisServer]:
    """Start a server that the test may end."""
    program("redis-server")
    with ordinary_directory("redis-") as directory, RedisServer(directory) as server:
        yield server
