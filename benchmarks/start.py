"""h. Start: how long `bamboo` takes until it is of use, as a user starts it.

* `bamboo serve` on an empty directory, from `exec` to the first answer of `/health/ready`.
* The same with many sessions, and how much longer that takes; and after a SIGKILL in the middle of
  appends. The files' pages are dropped from the page cache before (`posix_fadvise`); those of the
  interpreter and the packages are warm.
* `bamboo --help`.

The peer is the interpreter itself with an empty program, started on the same core.
"""

import http.client
import os
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.harness import Bench, Row, median, median_ratio
from benchmarks.history import built, drop_pages

TITLE = "Start: from exec to the first answer"
_EMPTY_GOAL, _MORE_GOAL, _KILLED_GOAL, _HELP_GOAL = "<= 0.8", "<= 0.4", "<= 2.0", "<= 0.25"
_PATIENCE_SECONDS = 60.0
_APPENDS = 100


def run(bench: Bench) -> list[Row]:
    """Start everything in turns; the memory store has nothing to start from."""
    runs = bench.pick(7, 5, 1)
    count = bench.pick(100_000, 20_000, 60)
    found: dict[str, list[float]] = {name: [] for name in ("python", "help", "empty", "many")}
    killed = []
    with built(bench, "sessions", (count,)) as directories:
        for _ in range(runs):
            found["python"].append(_seconds(bench, "-c", ""))
            found["help"].append(_seconds(bench, "-m", "bamboo_gateway", "--help"))
            with tempfile.TemporaryDirectory(dir=bench.directory) as empty:
                found["empty"].append(_serve(bench, Path(empty)))
            found["many"].append(_serve(bench, directories[count]))
        if bench.size != "smoke":
            for _ in range(bench.pick(3, 2, 1)):
                _serve(bench, directories[count], appends=_APPENDS)
                killed.append(_serve(bench, directories[count]))
    more = [many - empty for many, empty in zip(found["many"], found["empty"], strict=True)]
    rows = [
        _row("bamboo serve, an empty directory", found["empty"], found["python"], _EMPTY_GOAL),
        _row(f"bamboo serve, {count:,} sessions", found["many"], found["python"], None),
        _row(f"{count:,} sessions: more than an empty directory", more, None, _MORE_GOAL),
        _row("bamboo --help", found["help"], found["python"], _HELP_GOAL),
    ]
    if killed:
        case = f"bamboo serve, {count:,} sessions, after SIGKILL"
        rows.insert(3, _row(case, killed, None, _KILLED_GOAL))
    return rows


def _row(case: str, found: list[float], python: list[float] | None, goal: str | None) -> Row:
    return Row(
        case,
        "s",
        median(found),
        median(python) if python else None,
        ratio=median_ratio(found, python) if python else None,
        of="bamboo / an empty Python program",
        goal=goal,
        goal_is_absolute=True,
        runs=len(found),
        notes=[f"s: {min(found):.2f} to {max(found):.2f}"],
    )


def _seconds(bench: Bench, *arguments: str) -> float:
    started = time.perf_counter()
    with _process(bench, *arguments) as process:
        if process.wait(_PATIENCE_SECONDS) != 0:
            raise RuntimeError(f"{arguments} ended with {process.returncode}")
    return time.perf_counter() - started


def _serve(bench: Bench, directory: Path, appends: int = 0) -> float:
    """Start the gateway, wait for its first answer, and end it; by SIGKILL after `appends`."""
    drop_pages(directory)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    started = time.perf_counter()
    serve = ("serve", "--port", str(port), "--log-level", "warning")
    where = ("--data-dir", str(directory), "--storage-url", bench.storage)
    with _process(bench, "-m", "bamboo_gateway", *serve, *where) as process:
        _wait_for_answer(process, port)
        elapsed = time.perf_counter() - started
        if appends:
            _append(port, appends)
            process.kill()
        else:
            process.terminate()
    return elapsed


def _process(bench: Bench, *arguments: str) -> "subprocess.Popen[bytes]":
    core = bench.server_core
    return subprocess.Popen(
        [bench.gateway_python, *arguments],
        stdout=subprocess.DEVNULL,
        env={k: v for k, v in os.environ.items() if not k.startswith("BAMBOO_")},
        preexec_fn=None if core is None else lambda: os.sched_setaffinity(0, {core}),
    )


def _wait_for_answer(process: "subprocess.Popen[bytes]", port: int) -> None:
    until = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < until and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE_SECONDS)
        try:
            connection.request("GET", "/api/v1/health/ready")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.002)
        finally:
            connection.close()
    process.kill()
    raise RuntimeError("bamboo serve does not answer")


def _append(port: int, count: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE_SECONDS)
    for number in range(count):
        connection.request(
            "POST",
            f"/api/v1/sessions/s-{number % 50}/events",
            f'{{"type":"custom","name":"late","value":{number}}}',
            {"Content-Type": "application/json"},
        )
        answer = connection.getresponse()
        if answer.status != 201:
            raise RuntimeError(f"an event was not taken: {answer.status} {answer.read()!r}")
        answer.read()
    connection.close()
