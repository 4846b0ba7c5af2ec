"""Whatever sequence of calls, stops and kills a gateway goes through, its store is in order.

After each stop `bamboo doctor` finds nothing, and people see what the calls have made, by every
way there is to look at it. R1: what was acknowledged is there. R9: also what makes, moves and takes
away whole sessions.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)
from typing_extensions import override

from tests.processes import Gateway
from tests.support.postgres import GivenServer, PostgresServer
from tests.support.seen import check_files, check_session, check_what_people_see

NAMES = ["a", "B", "c.d"]
"""Few, so that calls meet; of a capital and of a dot, which file names write otherwise."""

_SETTINGS = {
    "BAMBOO_CHECKPOINT_INTERVAL_SECONDS": "0.05",
    "BAMBOO_IDLE_TIMEOUT_SECONDS": "0.2",
    # Compaction finds every ended run old enough.
    "BAMBOO_DELTA_RETENTION_SECONDS": "0",
    "BAMBOO_DRAIN_TIMEOUT_SECONDS": "0.2",
    "BAMBOO_ACCESS_LOG": "false",
    "BAMBOO_LOG_LEVEL": "warning",
}
_REFUSED = {404, 409}

names = st.sampled_from(NAMES)
keyed = st.booleans()


class Gateways(RuleBasedStateMachine):
    """One store and whoever serves it; and what was acknowledged."""

    durability = "fsync"
    new_store: "staticmethod[[], AbstractContextManager[str]]"
    """Makes an empty store, and yields its URL."""

    def __init__(self) -> None:
        super().__init__()
        with ExitStack() as stack:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="bamboo-"))
            self._storage_url = stack.enter_context(self.new_store())
            environment = {
                "BAMBOO_DURABILITY": self.durability,
                "BAMBOO_STORAGE_URL": self._storage_url,
            }
            self._gateway = Gateway(Path(directory), _SETTINGS | environment)
            self._opened = stack.pop_all()
        self._count = 0
        # Of each session that is there the texts that were said in it, in order.
        self._said: dict[str, list[str]] = {}
        self._archived: set[str] = set()

    # -- what a gateway goes through --------------------------------------------------------

    @initialize()
    def start(self) -> None:
        """Begins with an empty session and one with a key: so few examples have them all."""
        self._gateway.start()
        self.create("a", key=True)
        self.say("a", key=True, count=2)
        self.create("B", key=False)

    @rule(looks=st.booleans())
    def stop_and_start(self, looks: bool) -> None:
        assert self._gateway.stop() == 0
        check_files(self._gateway.data_dir, self._storage_url)
        self._gateway.start()
        if looks:
            self._look(copies=False)

    @rule(looks=st.booleans())
    def kill_and_start(self, looks: bool) -> None:
        self._gateway.kill()
        self._gateway.start()
        if looks:
            self._look(copies=False)

    # The only rule that draws nothing, so Hypothesis begins with an example of nothing else.
    @rule()
    def look_at_everything(self) -> None:
        self._look(copies=True)

    # -- calls ------------------------------------------------------------------------------

    @rule(name=names, key=keyed)
    def create(self, name: str, key: bool) -> None:
        if self._post("/sessions", {"id": name}, key) is not None:
            assert name not in self._said
            self._said[name] = []

    @rule(name=names, key=keyed, count=st.integers(1, 3))
    def say(self, name: str, key: bool, count: int) -> None:
        texts = [self._text() for _ in range(count)]
        body = [{"role": "user", "content": text, "id": text} for text in texts]
        if self._post(f"/sessions/{name}/messages", body, key) is not None:
            self._said[name] += texts

    @rule(name=names, key=keyed, wait=st.booleans(), delay=st.sampled_from([0, 5]))
    def chat(self, name: str, key: bool, wait: bool, delay: int) -> None:
        text = self._text()
        body = {"session_id": name, "message": text, "options": {"delay_ms": delay}}
        headers = {"Prefer": "wait=60"} if wait else {}
        turn = self._post("/chat", body, key, headers)
        if turn is not None:
            said = self._said.setdefault(name, [])
            # What waits is cancelled with the run before it, and not said then.
            said += [text] if turn["status"] != "queued" else []

    @rule(name=names, key=keyed, ends=st.booleans())
    def run_outside(self, name: str, key: bool, ends: bool) -> None:
        run = self._post(f"/sessions/{name}/runs", {"agent": "external"}, key)
        if run is None:
            return
        steps: list[dict[str, Any]] = [
            {"type": "token", "content": "Hello"},
            {"type": "tool_start", "tool_call_id": "t", "tool_name": "n", "arguments": {}},
            {
                "type": "tool_complete",
                "tool_call_id": "t",
                "result": {"success": True, "content": 1},
            },
            {"type": "complete"},
        ]
        events = [step | {"run_id": run["run_id"]} for step in steps[: 4 if ends else 2]]
        assert self._post(f"/sessions/{name}/events", events, key) is not None

    @rule(name=names)
    def cancel(self, name: str) -> None:
        self._post(f"/sessions/{name}/cancel", None, key=False)

    @rule(name=names, key=keyed)
    def fork(self, name: str, key: bool) -> None:
        self._let_runs_end()
        child = self._post(f"/sessions/{name}/fork", {}, key)
        if child is not None:
            self._check_copy(child["id"], name)

    @rule(name=names, form=st.sampled_from(["json", "yaml"]))
    def export_and_import(self, name: str, form: str) -> None:
        self._let_runs_end()
        exported = self._gateway.http.get(f"/sessions/{name}/export", params={"format": form})
        if exported.status_code == 404:
            assert name not in self._said
            return
        made = self._gateway.http.post("/import", params={"id": "new"}, content=exported.content)
        assert made.status_code == 201, made.text
        self._check_copy(made.json()["id"], name)

    @rule(target_name=names, source=names, strategy=st.sampled_from(["append", "replace"]))
    def merge(self, target_name: str, source: str, strategy: str) -> None:
        self._let_runs_end()
        body = {"source_id": source, "strategy": strategy}
        path = f"/sessions/{target_name}/merge"
        if target_name == source or self._post(path, body, key=False) is None:
            return
        said, more = self._said[target_name], self._said[source]
        kept = [] if strategy == "replace" else [text for text in more if text not in said]
        self._said[target_name] = list(more) if strategy == "replace" else said + kept

    @rule(name=names, key=keyed)
    def archive(self, name: str, key: bool) -> None:
        if self._post(f"/sessions/{name}/archive", None, key) is not None:
            self._archived.add(name)

    @rule(name=names, key=keyed)
    def restore(self, name: str, key: bool) -> None:
        if self._post(f"/sessions/{name}/restore", None, key) is not None:
            self._archived.discard(name)

    @rule(name=names)
    def delete(self, name: str) -> None:
        path = f"/archive/{name}" if name in self._archived else f"/sessions/{name}"
        if self._gateway.http.delete(path).status_code == 204:
            del self._said[name]
            self._archived.discard(name)

    @override
    def teardown(self) -> None:
        try:
            if self._gateway.process is not None:
                self._look(copies=True)
                assert self._gateway.stop() == 0
                check_files(self._gateway.data_dir, self._storage_url)
        finally:
            self._gateway.__exit__(None)
            self._opened.close()

    # -- means ------------------------------------------------------------------------------

    def _text(self) -> str:
        self._count += 1
        return f"text-{self._count}"

    def _post(
        self, path: str, body: Any, key: bool, headers: dict[str, str] | None = None
    ) -> dict[str, Any] | None:
        """Post, twice where there is a key; None where it was refused for the state of things."""
        headers = dict(headers or {})
        if key:
            headers["Idempotency-Key"] = f"key-{self._text()}"
        answer = self._gateway.http.post(path, json=body, headers=headers)
        if answer.status_code in _REFUSED:
            return None
        assert answer.is_success, f"POST {path}: {answer.status_code} {answer.text}"
        if key:
            again = self._gateway.http.post(path, json=body, headers=headers)
            assert again.is_success, again.text
            # An archived log takes no note: there a repeat finds everything done.
            done = path.endswith(("/archive", "/restore"))
            assert done or again.headers.get("Idempotency-Replayed") == "true", again.text
        given: dict[str, Any] = answer.json()
        return given

    def _let_runs_end(self) -> None:
        for name in self._said:
            if name not in self._archived:
                self._gateway.call("POST", f"/sessions/{name}/cancel")

    def _check_copy(self, copy: str, name: str) -> None:
        path = f"/sessions/{copy}"
        assert self._texts(copy) == self._texts(name)
        check_session(self._gateway.http, copy)
        assert self._gateway.http.delete(path).status_code == 204

    def _texts(self, name: str) -> list[Any]:
        path = f"/sessions/{name}/messages"
        said = self._gateway.call("GET", path, params={"limit": 1000})["messages"]
        return [message["content"] for message in said]

    def _look(self, *, copies: bool) -> None:
        self._let_runs_end()
        there = {name: [texts] for name, texts in self._said.items() if name not in self._archived}
        check_what_people_see(self._gateway.http, there, copies=copies)
        for name in self._archived:
            check_session(self._gateway.http, name, [self._said[name]])


NewStore = Callable[[], AbstractContextManager[str]]
STORES = ["jsonl", "sqlite", "postgresql"]


@pytest.fixture
def new_store(request: pytest.FixtureRequest, storage: str) -> NewStore:
    """Return what makes an empty store of this kind, and yields its URL."""
    if storage != "postgresql":
        return lambda: nullcontext(f"{storage}:")
    server: PostgresServer | GivenServer = request.getfixturevalue("postgres_server")

    @contextmanager
    def new_database() -> Iterator[str]:
        with server.database() as name:
            yield server.url(name)

    return new_database


def go_through(new_store: NewStore, durability: str, *, examples: int, steps: int) -> None:
    attributes = {"durability": durability, "new_store": staticmethod(new_store)}
    machine = type("Gateways", (Gateways,), attributes)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            # Each example is some processes: a shorter story is not worth the time of finding it.
            phases=[Phase.explicit, Phase.reuse, Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("storage", "durability", "examples"),
    [("jsonl", "fsync", 4), ("jsonl", "os", 4), ("sqlite", "fsync", 3), ("postgresql", "fsync", 3)],
)
def test_whatever_happens_doctor_finds_nothing_and_people_see_all_of_it(
    new_store: NewStore, durability: str, examples: int
) -> None:
    go_through(new_store, durability, examples=examples, steps=10)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("durability", ["fsync", "os"])
@pytest.mark.parametrize("storage", STORES)
def test_whatever_happens_for_long_doctor_finds_nothing_and_people_see_all_of_it(
    new_store: NewStore, durability: str
) -> None:
    go_through(new_store, durability, examples=60, steps=40)
