"""Plays scenarios: a gateway process, a proxy before it, and a client's driver."""

import json
import subprocess
import sys
import threading
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tests.processes import REPOSITORY, Gateway, environment
from tests.support.http_proxy import Fault, HttpProxy
from tests.support.seen import Tree

SCENARIOS = REPOSITORY / "clients" / "scenarios"
ANSWER_SECONDS = 120.0
RETRY_SECONDS_MAX = 0.05
CONTROL = frozenset({"open", "heartbeat", "goodbye"})
_CONTROL_STEPS = ("client", "gateway", "network", "check", "each_cut")


class Driver:
    """A client's driver process."""

    def __init__(self, command: Sequence[str]) -> None:
        words = [sys.executable if word == "{python}" else word for word in command]
        self._process = subprocess.Popen(
            words,
            cwd=REPOSITORY,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
        self._number = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(ANSWER_SECONDS)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def ask(self, do: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Have the driver do something, and return its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._number += 1
        command = {"id": self._number, "do": do, **arguments}
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        timer = threading.Timer(ANSWER_SECONDS, self._process.kill)
        timer.start()
        line = self._process.stdout.readline()
        timer.cancel()
        assert line, f"the driver gave no answer to {command}"
        answer: dict[str, Any] = json.loads(line)
        assert answer["id"] == self._number
        return answer


class Stage:
    """One scenario while it is played.

    Args:
        gateway: The gateway, which runs.
        proxy: The proxy before it.
        driver: The client.
        cut_step: `each_cut` leaves out all cuts but every one of this number.
    """

    def __init__(
        self, gateway: Gateway, proxy: HttpProxy, driver: Driver, cut_step: int = 1
    ) -> None:
        self._gateway = gateway
        self._proxy = proxy
        self._driver = driver
        self._cut_step = cut_step
        self._seen_lines = 0
        self._names: dict[str, Any] = {
            "sid": f"s-{uuid.uuid4().hex}",
            "other": f"o-{uuid.uuid4().hex}",
        }

    def play(self, steps: Sequence[Mapping[str, Any]]) -> None:
        """Play the steps, each to its end."""
        for step in steps:
            try:
                self._step(dict(step))
            except AssertionError as error:
                raise AssertionError(f"in the step {step}: {error}") from error

    def connect(self, **more: Any) -> None:
        """Make a new client."""
        asked = {"url": self._proxy.url, "retry_seconds_max": RETRY_SECONDS_MAX} | more
        answer = self._driver.ask("connect", asked)
        assert "error" not in answer, answer

    def _step(self, step: dict[str, Any]) -> None:
        (kind,) = [name for name in _CONTROL_STEPS if name in step]
        what = step.pop(kind)
        if kind == "each_cut":
            self._each_cut(what, step["route"])
            return
        kept: dict[str, Any] = {
            name: step.pop(name) for name in ("expect", "error", "save") if name in step
        }
        arguments = self._filled(step)
        match kind:
            case "client" if what == "connect":
                self.connect(**arguments)
            case "client":
                self._client(what, arguments, kept)
            case "gateway" if what == "call":
                value = self._gateway.call(
                    arguments["method"], arguments["path"], json=arguments.get("json")
                )
                self._keep(value, kept)
            case "gateway":
                getattr(self._gateway, what)()
            case "network" if what in {"up", "down"}:
                getattr(self._proxy, what)()
            case "network":
                self._proxy.add(Fault(what, **arguments))
            case "check":
                getattr(self, f"_check_{what}")(**arguments)
            case _:
                raise AssertionError(kind)

    def _client(self, do: str, arguments: dict[str, Any], kept: Mapping[str, Any]) -> None:
        answer = self._driver.ask(do, arguments)
        if "error" in kept:
            assert "error" in answer, f"no error, but {answer['value']}"
            holds(answer["error"], self._filled(kept["error"]))
            return
        assert "error" not in answer, answer["error"]
        self._keep(answer["value"], kept)

    def _keep(self, value: Any, kept: Mapping[str, Any]) -> None:
        if "expect" in kept:
            holds(value, self._filled(kept["expect"]))
        for name, path in kept.get("save", {}).items():
            found = value
            for member in path.split("."):
                found = found[int(member)] if isinstance(found, list) else found[member]
            self._names[name] = found

    def _filled(self, value: Any) -> Any:
        match value:
            case str() if value.startswith("$"):
                return self._names[value[1:]]
            case str() if "$" in value:
                for name, kept in self._names.items():
                    value = value.replace(f"${{{name}}}", str(kept))
                return value
            case list():
                return [self._filled(one) for one in value]
            case dict():
                return {self._filled(name): self._filled(one) for name, one in value.items()}
            case _:
                return value

    def _each_cut(self, steps: Sequence[Mapping[str, Any]], route: str) -> None:
        self.play(steps)
        whole = max(
            length for line, length in self._proxy.answered_bytes.items() if line.startswith(route)
        )
        for after_bytes in range(0, whole + self._cut_step, self._cut_step):
            self._proxy.add(Fault("cut", route, after_bytes=after_bytes))
            try:
                self.play(steps)
            except AssertionError as error:
                raise AssertionError(f"cut after {after_bytes} bytes: {error}") from error

    # -- checks -----------------------------------------------------------------------------------

    def _read(self, name: str) -> dict[str, Any]:
        answer = self._driver.ask("read", {"as": name})
        assert "error" not in answer, answer["error"]
        value: dict[str, Any] = answer["value"]
        return value

    def _check_log(self, *, session: str, after: str | None = None, **named: str) -> None:
        log = self._gateway.events(session)
        if after is not None:
            log = [event for event in log if event["seq"] > int(after.rpartition("-")[2])]
        seen = [
            {name: value for name, value in event.items() if name != "session_id"}
            for event in self._read(named["as"])["events"]
            if event.get("session_id", session) == session
        ]
        told = [event["seq"] for event in seen if "seq" in event]
        assert told == [event["seq"] for event in log], f"{told} of {len(log)}"
        assert seen == [
            {name: value for name, value in event.items() if name != "session_id"} for event in log
        ]

    def _check_messages(self, *, session: str, **named: str) -> None:
        page = self._gateway.call("GET", f"/sessions/{session}/messages", params={"limit": 1000})
        assert self._read(named["as"])["messages"] == page["messages"]
        # And by a second path: folded out of the log by other code.
        tree = Tree(self._gateway.events(session))
        assert page["messages"] == tree.path(tree.current)

    def _check_runs(
        self, *, session: str, count: int | None = None, statuses: Sequence[str] | None = None
    ) -> None:
        runs = self._gateway.call("GET", f"/sessions/{session}/runs")["runs"]
        found = [run["status"] for run in sorted(runs, key=lambda run: run["created_at"])]
        assert count is None or len(found) == count, found
        assert statuses is None or found == list(statuses), found

    def _check_requests(self, *, route: str, count: int) -> None:
        lines = self._proxy.lines[self._seen_lines :]
        self._seen_lines += len(lines)
        found = [line for line in lines if line.startswith(route)]
        assert len(found) == count, found


def holds(value: Any, expected: Any) -> None:
    """Check that a value has what is expected; members that are not named may be there."""
    match expected:
        case dict():
            assert isinstance(value, dict), value
            for name, one in expected.items():
                assert name in value, f"no {name} in {value}"
                holds(value[name], one)
        case list():
            assert isinstance(value, list), value
            assert len(value) == len(expected), value
            for one, wanted in zip(value, expected, strict=True):
                holds(one, wanted)
        case _:
            assert value == expected


def scenarios() -> dict[str, Path]:
    """Return the scenarios by their names."""
    return {path.stem: path for path in sorted(SCENARIOS.glob("*.json")) if path.stem != "drivers"}


def drivers() -> dict[str, list[str]]:
    """Return the commands of the drivers by their names."""
    found: dict[str, list[str]] = json.loads((SCENARIOS / "drivers.json").read_text("utf-8"))
    return found
