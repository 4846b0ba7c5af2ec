"""The load clients: a process of their own on the other core, in C where there is a compiler.

`client.c`, `chats.c` and `feeders.c` say what they do. They are compiled at run time into a
temporary directory. Without a compiler `fallback.py` takes the arguments and commands of the first,
several times slower, and what needs the others is left out. The client's share of its core is
reported: from 90% on, the client may be what limits a figure.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_HERE = Path(__file__).parent
LIMIT_SHARE = 0.9
"""From this share of its core on, the client itself may be the limit."""


class ClientFailed(Exception):
    """The load client did not do its work; its words say why."""


def build(directory: Path) -> list[str]:
    """Return the command of the load client: compiled, or the fallback."""
    binary = compiled("client", directory)
    if binary is not None:
        return [str(binary)]
    return [sys.executable, str(_HERE / "fallback.py")]


def compiled(name: str, directory: Path) -> Path | None:
    """Compile a program into a directory; None where there is no compiler or no Linux."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or sys.platform != "linux":
        return None
    binary = directory / name
    built = subprocess.run(
        [compiler, "-O2", "-o", str(binary), str(_HERE / f"{name}.c")],
        capture_output=True,
        check=False,
    )
    return binary if built.returncode == 0 else None


class _Program:
    """A load program that runs. A context manager, which ends it."""

    _process: subprocess.Popen[Any]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the program, and so close its connections."""
        _end(self._process)


class Readers(_Program):
    """Open streams, one per path. A context manager: leaving it closes them."""

    def __init__(
        self,
        command: Sequence[str],
        port: int,
        paths: Iterable[str],
        window: int = 64,
        timeout_seconds: float = 120,
    ) -> None:
        self._timeout = timeout_seconds
        self._process = subprocess.Popen(
            [*command, "sse", str(port), str(window), str(timeout_seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        paths = list(paths)
        self.count = len(paths)
        self.opening = self._ask("\n".join(paths) + "\n\n")
        if self.opening["least"] != self.count:
            self.close()
            raise ClientFailed(f"{self.opening['least']} of {self.count} streams were opened")

    def loop(self, control: int, burst: int, seconds: float) -> dict[str, Any]:
        """Let the producer send bursts, each once every reader has the one before."""
        return self._checked(self._ask(f"loop {control} {burst} {seconds}\n"))

    def listen(self, warmup: float, seconds: float) -> dict[str, Any]:
        """Count what comes by itself."""
        return self._checked(self._ask(f"listen {warmup} {seconds}\n"))

    def _ask(self, command: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(command)
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise ClientFailed("the load client ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _checked(self, answer: dict[str, Any]) -> dict[str, Any]:
        if answer["closed"]:
            raise ClientFailed(f"{answer['closed']} streams were closed by the server")
        return answer


class Chats(_Program):
    """The clients of chats, and the model server behind `upstream`. A context manager."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.upstream: int = self._answer()["upstream"]

    def play(
        self,
        port: int,
        ask: bytes,
        chats: int,
        *,
        begins: float,
        rate: float,
        words: int,
        until_seconds: float,
        seconds_max: float,
        from_seconds: float = 0,
        give_up_ms: float = 0,
    ) -> dict[str, Any]:
        """Play a round, as `chats.c` says; each chat begins with the request `ask`."""
        numbers = (port, chats, begins, rate, words, until_seconds, from_seconds, give_up_ms)
        line = " ".join(["round", *map(str, numbers), str(seconds_max)])
        assert self._process.stdin is not None
        self._process.stdin.write(b"ask %d\n%b%b\n" % (len(ask), ask, line.encode()))
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ClientFailed("the client of chats ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


class Feeders(_Program):
    """Programs that post events as streamed NDJSON, as `feeders.c` says. A context manager."""

    def __init__(
        self,
        command: Sequence[str],
        port: int,
        rate: float,
        seconds: float,
        start_ns: int,
        posts: Iterable[tuple[str, str]],
    ) -> None:
        self._process = subprocess.Popen(
            [*command, str(port), str(rate), str(seconds), str(start_ns)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin is not None
        self._process.stdin.write("".join(f"{path}\n{line}\n" for path, line in posts) + "\n")
        self._process.stdin.flush()

    def wait(self) -> dict[str, Any]:
        """Wait until all are answered."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"refused": "all"}
        if answer["refused"]:
            raise ClientFailed(f"{answer['refused']} streams of events were refused")
        return answer


def _end(process: "subprocess.Popen[Any]") -> None:
    if process.poll() is None:
        process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def http_load(
    command: Sequence[str], port: int, requests: Sequence[bytes], connections: int, seconds: float
) -> dict[str, Any]:
    """Send requests on keep-alive connections; each sends every `connections`-th.

    They are repeated for so many seconds; with 0 each is sent once.
    """
    data = b"".join(b"%d\n%b" % (len(request), request) for request in requests)
    done = subprocess.run(
        [*command, "http", str(port), str(connections), str(seconds)],
        input=data,
        stdout=subprocess.PIPE,
        check=False,
        timeout=seconds * 3 + 60,
    )
    if done.returncode != 0:
        raise ClientFailed("the load client ended with an error")
    answer: dict[str, Any] = json.loads(done.stdout)
    if answer["refused"] or answer["closed"]:
        raise ClientFailed(f"{answer['refused']} refused, {answer['closed']} connections lost")
    return answer


def request(
    method: str,
    path: str,
    body: bytes = b"",
    content_type: str = "application/json",
    accept: str = "",
    prefer: str = "",
) -> bytes:
    """Write one HTTP/1.1 request."""
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    if accept:
        head += f"Accept: {accept}\r\n"
    if prefer:
        head += f"Prefer: {prefer}\r\n"
    if body or method != "GET":
        head += f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body
