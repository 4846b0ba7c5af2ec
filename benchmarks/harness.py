"""What every benchmark uses: server processes on one core, the load client on the other, medians.

Servers that are compared stand side by side, and their rounds alternate, so that whatever else the
machine does falls on both. A ratio is the median of the rounds' ratios. Everything ends with its
owner: processes are children, ended by their own handle, and die with their parent.
"""

import contextlib
import http.client
import json
import math
import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from benchmarks.loadclient import LIMIT_SHARE, Chats, Readers, build, compiled, http_load

Size = Literal["full", "quick", "smoke"]
_ROOT = Path(__file__).parent.parent
ENVIRONMENTS = {"relay_openai": "openai-sdk", "litellm_proxy": "litellm"}
"""Peers with libraries of their own, and where in `.venv` `make bench-peers` puts these."""
_START_SECONDS = 60
_STOP_SECONDS = 20
_REUSE_SECONDS = 2  # uvicorn closes what is idle for five


@dataclass(slots=True)
class Row:
    """One line of the table.

    Attributes:
        case: What was measured, with its size.
        unit: Of the three numbers: of the gateway, of the hand-written or bare peer, of the limit.
        ratio: What the figure is judged by; `of` says which by which.
        goal: The bound on `ratio` (or on the number, with `goal_is_absolute`): `>= 2.5`, `<= 1.5`.
    """

    case: str
    unit: str
    gateway: float | None = None
    peer: float | None = None
    limit: float | None = None
    ratio: float | None = None
    of: str = ""
    goal: str | None = None
    goal_is_absolute: bool = False
    runs: int = 1
    notes: list[str] = field(default_factory=list)

    @property
    def is_met(self) -> bool | None:
        """Whether the goal is reached; None without one."""
        value = self.gateway if self.goal_is_absolute else self.ratio
        if self.goal is None or value is None:
            return None
        sign, bound = self.goal.split()
        return value >= float(bound) if sign == ">=" else value <= float(bound)

    def to_json(self) -> dict[str, Any]:
        """Return the values for the JSON file."""
        return {**asdict(self), "met": self.is_met}


class Server:
    """One server process. Made by `Bench`."""

    def __init__(self, name: str, process: subprocess.Popen[str], errors: Path) -> None:
        self.name = name
        self.process = process
        self._errors = errors
        self.port = self.control = 0
        self._http: http.client.HTTPConnection | None = None
        self._called = 0.0

    def wait_until_up(self) -> None:
        """Wait for the line that says where it listens."""
        assert self.process.stdout is not None
        timer = time.monotonic() + _START_SECONDS
        while time.monotonic() < timer:
            line = self.process.stdout.readline()
            if not line:
                break
            if line.startswith('{"port"'):
                where = json.loads(line)
                self.port, self.control = where["port"], where["control"]
                return
        self.stop()
        raise RuntimeError(f"{self.name} did not start: {self._errors.read_text()[-2000:]}")

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Send one request and return the decoded answer.

        Raises:
            RuntimeError: The answer is no success.
        """
        if time.monotonic() - self._called > _REUSE_SECONDS:
            self._hang_up()
        if self._http is None:
            self._http = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
            self._http.connect()
            self._http.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        data = None if body is None else json.dumps(body)
        headers = {} if body is None else {"Content-Type": "application/json"}
        self._http.request(method, path, data, headers)
        answer = self._http.getresponse()
        content = answer.read()
        self._called = time.monotonic()
        if answer.status >= 300:
            raise RuntimeError(f"{self.name}: {method} {path}: {answer.status} {content[:500]!r}")
        return json.loads(content) if content else None

    def stats(self) -> dict[str, float]:
        """Return what the process reports about itself."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(30)
            sock.sendto(b"stats", ("127.0.0.1", self.control))
            answer: dict[str, float] = json.loads(sock.recv(4096))
            return answer

    def cpu_seconds(self) -> float:
        """Return the CPU that the process has used; needs no control socket."""
        stat = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii")
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def tell(self, word: str) -> None:
        """Send a word to its control socket."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(word.encode(), ("127.0.0.1", self.control))

    def wait_idle(self, seconds: float = 60) -> None:
        """Wait until none of its producers is at work."""
        until = time.monotonic() + seconds
        while self.stats()["active"] and time.monotonic() < until:
            time.sleep(0.05)

    def keep_pace(self, producers: int, rate: float, seconds: float) -> None:
        """Let so many producers, which wait for it, speak from 50 ms on; return when they do."""
        self.wait_for(producers)
        self.tell(f"start {time.monotonic_ns() + 50_000_000} {rate} {seconds}")
        time.sleep(0.05)

    def wait_for(self, producers: int, seconds: float = 60) -> None:
        """Wait until so many producers wait for a pace."""
        until = time.monotonic() + seconds
        while self.stats()["waiting"] < producers:
            if time.monotonic() > until:
                raise RuntimeError(f"{self.name}: its producers are not ready")
            time.sleep(0.01)

    def end_pace(self) -> None:
        """End the producers that wait for a pace."""
        self.tell("stop")
        self.wait_idle()

    def stop(self) -> None:
        """End the process: ask first, then kill."""
        self._hang_up()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def _hang_up(self) -> None:
        if self._http is not None:
            self._http.close()
            self._http = None


class Bench:
    """What a benchmark is given. A context manager that ends and removes all it made."""

    def __init__(
        self,
        size: Size = "full",
        *,
        storage: str = "jsonl:",
        directory: Path | None = None,
        gateway_python: str = sys.executable,
        only_cases: str = "",
        say: Callable[[str], None] = print,
    ) -> None:
        self.size: Size = size
        self.storage = storage
        self.say = say
        self.runs = {"full": 5, "quick": 3, "smoke": 1}[size]
        self._parent = directory
        self.gateway_python = gateway_python
        self._only_cases = only_cases
        self._stack = contextlib.ExitStack()
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        self.server_core = cores[0] if len(cores) > 1 else None
        self.client_core = cores[1] if len(cores) > 1 else None

    def __enter__(self) -> Self:
        self.directory = Path(
            self._stack.enter_context(
                tempfile.TemporaryDirectory(
                    prefix="bamboo-bench-", dir=self._parent, ignore_cleanup_errors=True
                )
            )
        )
        command = build(self.directory)
        self.client_is_compiled = len(command) == 1
        self.client = self._pinned(command)
        return self

    def _pinned(self, command: list[str]) -> list[str]:
        taskset = shutil.which("taskset")
        if self.client_core is None or taskset is None:
            return command
        return [taskset, "-c", str(self.client_core), *command]

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def pick(self, full: Any, quick: Any, smoke: Any) -> Any:
        """Return what belongs to the size that was asked for."""
        return {"full": full, "quick": quick, "smoke": smoke}[self.size]

    def wants(self, case: str) -> bool:
        """Whether a case belongs to those that were asked for."""
        return self._only_cases in case

    @contextlib.contextmanager
    def servers(self, *names: str, **options: Any) -> Iterator[list[Server]]:
        """Run servers side by side: `gateway` (with settings) or modules of `peers/`."""
        with contextlib.ExitStack() as stack:
            started = [
                stack.enter_context(self.server(name, wait=False, **options)) for name in names
            ]
            for server in started:
                server.wait_until_up()
            yield started

    @contextlib.contextmanager
    def server(
        self,
        name: str,
        data_dir: Path | None = None,
        *,
        wait: bool = True,
        is_pinned: bool = True,
        upstream: int = 0,
        **settings: Any,
    ) -> Iterator[Server]:
        """Run one server; the gateway in a directory of its own unless it is given one.

        A peer that relays is given the port of the model server, `upstream`. One that is not pinned
        to the servers' core may use all of them.
        """
        config: dict[str, Any] = {
            "core": self.server_core if is_pinned else None,
            "directory": str(self.directory),
            "upstream": upstream,
        }
        own = data_dir or Path(tempfile.mkdtemp(prefix="data-", dir=self.directory))
        if name == "gateway":
            config["settings"] = {
                "storage_url": self.storage,
                "data_dir": str(own),
                "max_active_sessions": 5000,
                **settings,
            }
        server = self._start(name, config)
        try:
            if wait:
                server.wait_until_up()
            yield server
        finally:
            server.stop()
            if data_dir is None:
                shutil.rmtree(own, ignore_errors=True)

    def _start(self, name: str, config: dict[str, Any]) -> Server:
        errors = self.directory / f"{name}-{time.monotonic_ns()}.log"
        with errors.open("w", encoding="utf-8") as file:
            process = subprocess.Popen(
                [self._python(name), "-m", "benchmarks.launch", name, json.dumps(config)],
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                cwd=_ROOT,
                env={k: v for k, v in os.environ.items() if not k.startswith("BAMBOO_")},
            )
        return Server(name, process, errors)

    def _python(self, name: str) -> str:
        if name == "gateway":
            return self.gateway_python
        return str(environment(name)) if name in ENVIRONMENTS else sys.executable

    @contextlib.contextmanager
    def chats(self) -> Iterator[Chats | None]:
        """Run the clients of chats and their model server; None without a compiler."""
        command = self.compiled("chats")
        if command is None:
            yield None
            return
        with Chats(command) as chats:
            yield chats

    def compiled(self, program: str) -> list[str] | None:
        """Return the command of a C program of `loadclient/`; None without a compiler."""
        binary = compiled(program, self.directory)
        return None if binary is None else self._pinned([str(binary)])

    def readers(self, server: Server, paths: Iterable[str], window: int = 64) -> Readers:
        """Opens a stream for each path."""
        return Readers(self.client, server.port, paths, window)

    def load(
        self, server: Server, requests: Sequence[bytes], connections: int, seconds: float
    ) -> dict[str, Any]:
        """Send requests for a time; with 0 seconds each one once."""
        return http_load(self.client, server.port, requests, connections, seconds)


def environment(peer: str) -> Path:
    """Return the interpreter of a peer with an environment of its own, which may be absent."""
    return _ROOT / ".venv" / ENVIRONMENTS[peer] / "bin" / "python"


def median(values: Iterable[float]) -> float:
    """The middle one."""
    return statistics.median(values)


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The median of the ratios of rounds that ran side by side.

    A round that was too short for a busy machine may have measured nothing.
    """
    return statistics.median(a / b if b else math.inf for a, b in zip(above, below, strict=True))


def three(values: dict[str, list[float]]) -> tuple[float, float, float]:
    """The medians of the gateway, its peer and the limit: a row's three numbers."""
    gateway, peer, limit = (median(found) for found in values.values())
    return gateway, peer, limit


def client_notes(answers: Iterable[dict[str, Any]], name: str = "") -> list[str]:
    """Say when the load client was the limit."""
    share = median(answer["cpu"] for answer in answers)
    if share < LIMIT_SHARE:
        return []
    return [f"{name + ': ' if name else ''}the client is the limit ({share:.0%} of its core)"]


def machine() -> dict[str, Any]:
    """Say where the numbers come from."""
    model = platform.processor()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cpu": model,
        "cores": os.cpu_count(),
        "load": [round(value, 2) for value in os.getloadavg()],
        "system": platform.platform(),
        "python": platform.python_version(),
    }
