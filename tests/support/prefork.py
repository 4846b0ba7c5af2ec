"""Processes of `bamboo` that begin with everything imported, for tests that start many.

A start of the gateway takes a second of a core, and all of that is imports. So each process that
runs tests keeps one nursery: an interpreter that has imported the program and started nothing. For
each command it forks a child, which runs `python -m bamboo_gateway`, or a text as `python -c` does,
as a fresh interpreter would: a process of its own, with its own arguments, environment, directory
and streams, that can be sent every signal and killed.

What a child has imported tells nothing about what the program imports by itself, and its memory is
shared with the nursery. Tests of these start a fresh interpreter.
"""

import atexit
import gc
import importlib
import json
import os
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import IO, Any

_REPOSITORY = Path(__file__).resolve().parents[2]
_REQUEST_BYTES_MAX = 1 << 20
_POLL_SECONDS = 0.005


class Child:
    """A process that the nursery has forked; it has what tests use of `subprocess.Popen`."""

    def __init__(self, pid: int, args: Sequence[str], status: socket.socket) -> None:
        self.pid = pid
        self.args = args
        self.returncode: int | None = None
        self._status = status

    def poll(self) -> int | None:
        """Return the exit code, or None while the process runs."""
        return self._read(0)

    def wait(self, timeout: float) -> int:
        """Wait for the end and return the exit code; a negative one is the signal that ended it."""
        deadline = time.monotonic() + timeout
        while (code := self._read(max(_POLL_SECONDS, deadline - time.monotonic()))) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(self.args, timeout)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End the process without a warning."""
        self.send_signal(signal.SIGKILL)

    def _read(self, seconds: float) -> int | None:
        if self.returncode is None:
            self._status.settimeout(seconds)
            try:
                text = self._status.recv(16)
            except (TimeoutError, BlockingIOError):
                return None
            assert text, "the nursery has ended"
            self.returncode = os.waitstatus_to_exitcode(int(text))
            self._status.close()
        return self.returncode


def start(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    directory: Path,
    streams: tuple[IO[bytes], IO[bytes], IO[bytes]],
    text: str | None = None,
) -> Child:
    """Start `python -m bamboo_gateway`; `streams` become its stdin, stdout and stderr.

    With a `text`, start `python -c TEXT`.
    """
    nursery = _nursery()
    ours, theirs = socket.socketpair()
    request = {
        "arguments": list(arguments),
        "environment": dict(environment),
        "directory": str(directory),
        "text": text,
    }
    files = [*(stream.fileno() for stream in streams), theirs.fileno()]
    with theirs, _lock:
        socket.send_fds(nursery, [json.dumps(request).encode()], files)
    return Child(int(ours.recv(16)), list(arguments), ours)


def run(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    directory: Path,
    *,
    timeout: float,
    stdin: str = "",
    text: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command, or a `text`, to its end; none of its streams is a terminal."""
    if not can_start(environment):
        what = ["-m", "bamboo_gateway"] if text is None else ["-c", text]
        return subprocess.run(
            [sys.executable, *what, *arguments],
            cwd=directory,
            env=environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    with (
        tempfile.TemporaryFile() as given,
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
    ):
        given.write(stdin.encode())
        given.seek(0)
        child = start(arguments, environment, directory, (given, out, err), text)
        try:
            code = child.wait(timeout)
        finally:
            child.kill()
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode())
    return subprocess.CompletedProcess(list(arguments), code, *texts)


def can_start(environment: Mapping[str, str]) -> bool:
    """Tell whether a child is what a fresh interpreter would be, with this environment.

    An interpreter reads its own variables (PYTHONPATH and others) when it starts, and forking a
    process that has loaded a system's frameworks is safe on Linux only.
    """

    def of_interpreter(variables: Mapping[str, str]) -> dict[str, str]:
        return {name: value for name, value in variables.items() if name.startswith("PYTHON")}

    return sys.platform == "linux" and of_interpreter(environment) == of_interpreter(os.environ)


_lock = threading.Lock()


@cache
def _nursery() -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(theirs.fileno())],
            cwd=_REPOSITORY,
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )
    atexit.register(process.wait)
    atexit.register(ours.close)
    assert ours.recv(16) == b"ready"
    return ours


def _serve(requests: socket.socket) -> dict[str, Any] | None:
    """Fork a child for each request. Return the request in the child, None in the nursery's end."""
    requests.send(b"ready")
    # Nobody waits for guardians, so the system is to forget them.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        text, files, _, _ = socket.recv_fds(requests, _REQUEST_BYTES_MAX, 4)
        if not text:
            return None
        if os.fork():
            for file in files:
                os.close(file)
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        requests.close()
        *streams, status = files
        with socket.socket(fileno=status) as answers:
            if child := os.fork():
                _guard(child, streams, answers)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        request: dict[str, Any] = json.loads(text)
        return request


def _guard(child: int, streams: Sequence[int], answers: socket.socket) -> None:
    """Report the child's id, wait for its end and report its status; never returns.

    Only a parent can wait for a process, and the nursery has others to start meanwhile.
    """
    for stream in streams:
        os.close(stream)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Whoever started the child may have ended before it.
    with suppress(OSError):
        answers.send(b"%d" % child)
        _, status = os.waitpid(child, 0)
        answers.send(b"%d" % status)
    os._exit(0)


def _become(request: Mapping[str, Any]) -> None:
    """Go on as `python -m bamboo_gateway`, or `python -c`, with what the request says."""
    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    os.chdir(request["directory"])
    sys.path[0] = request["directory"]
    sys.argv[1:] = request["arguments"]
    if (text := request["text"]) is None:
        runpy.run_module("bamboo_gateway", run_name="__main__", alter_sys=True)
        return
    sys.path[0], sys.argv[0] = "", "-c"
    module = sys.modules["__main__"] = ModuleType("__main__")
    exec(compile(text, "<string>", "exec"), vars(module))


def _import_everything() -> None:
    import bamboo_gateway

    for module in pkgutil.walk_packages(bamboo_gateway.__path__, "bamboo_gateway."):
        # What runs when it is imported, and what is only there where an extra is installed.
        if module.name not in {"bamboo_gateway.__main__", "bamboo_gateway.observability.otel"}:
            importlib.import_module(module.name)
    assert threading.active_count() == 1, "a fork would leave the other threads behind"
    # A child's collector would look at all of this, and at its end copy it: half a second.
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    _import_everything()
    if (asked := _serve(socket.socket(fileno=int(sys.argv[1])))) is not None:
        _become(asked)
