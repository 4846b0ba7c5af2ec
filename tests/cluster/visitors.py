"""Clients whose sessions are short: each step is made at any replica, and looked at at another."""

import random
import threading
from collections.abc import Sequence
from typing import Any

from typing_extensions import override

from tests.cluster.checks import BROKEN_OFF
from tests.cluster.counting_agent import said_by
from tests.cluster.roaming import Roamer

_ENDED = frozenset({"completed", "cancelled", "interrupted", "failed"})
_GONE = frozenset({404, 410})
_POLL_SECONDS = 0.05
_POLLS_MAX = 2000


class Visitor:
    """Creates sessions, does with them what people do, and deletes them."""

    def __init__(self, urls: Sequence[str], name: str, seed: int) -> None:
        self.failure: str | None = None
        self._name = name
        self._dice = random.Random(seed)
        self.roamer = Roamer(urls, self._dice)
        self._count = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._visit, name=name)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def finish(self) -> None:
        """Let it see its last session through, and end it."""
        self._over.set()
        self._thread.join(110)
        assert not self._thread.is_alive(), f"{self._name} was never answered"
        self.roamer.close()
        assert self.failure is None, self.failure

    def _visit(self) -> None:
        try:
            while not self._over.is_set():
                self._one_session()
        except Exception as error:  # noqa: BLE001 - a thread's failure is told by `finish`
            told = f"{self._name}: {type(error).__name__}: {error}"
            self.failure = "\n".join([told, *self.roamer.history])

    def _one_session(self) -> None:
        self._count += 1
        session = f"{self._name}-{self._count}"
        made = self._post("/sessions", {"id": session, "title": "a visit"}, "create")
        epoch = int(made["position"].split("-")[0])
        assert self.roamer.call("GET", f"/sessions/{session}")["id"] == session
        acts = [self._chat, self._ask_and_answer, self._fork, self._archive, self._rename]
        for number in range(2):
            self._dice.choice(acts)(session, number)
        self._delete(session)
        if self._dice.random() < 0.5:
            # The same id once more: another session, whose positions are others.
            again = self._post("/sessions", {"id": session}, "again")
            assert int(again["position"].split("-")[0]) > epoch
            old = self.roamer.send(
                "GET",
                f"/sessions/{session}/events",
                params={"after": f"{epoch}-1"},
                takes=frozenset({410}),
            )
            assert old.status_code == 410, old.text
            self._delete(session)

    def _chat(self, session: str, number: int) -> None:
        run_id = f"run_{session}-{number}"
        body = {
            "session_id": session,
            "message": f"{session} says {number}",
            "run_id": run_id,
            "options": {"tokens": 4, "delay_ms": 5},
        }
        self._post("/chat", body, f"chat-{number}")
        run = self._ended(session, run_id)
        said = self._said(session, run_id)
        whole = said_by(run_id, 4)
        if run["status"] == "completed":
            assert said == whole, (run, said)
        else:
            assert run["error"]["code"] in BROKEN_OFF, run
            assert whole.startswith(said), (run, said)

    def _ask_and_answer(self, session: str, number: int) -> None:
        run_id = f"run_{session}-{number}"
        body = {
            "session_id": session,
            "message": "Pay!",
            "run_id": run_id,
            "options": {"ask": True},
        }
        self._post("/chat", body, f"ask-{number}")
        if self._ended(session, run_id)["status"] != "completed":
            return
        (asked,) = self.roamer.call("GET", f"/sessions/{session}/inputs")["inputs"]
        answers = {"answers": {asked["request_id"]: {"approved": True}}}
        taken = self._post(f"/sessions/{session}/inputs", answers, f"answer-{number}")
        # The same answer again, at another replica, is the same.
        again = self.roamer.call("POST", f"/sessions/{session}/inputs", json=answers)
        assert again["run_id"] == taken["run_id"], (again, taken)
        self._ended(session, taken["run_id"])

    def _fork(self, session: str, number: int) -> None:
        texts = [f"{session} notes {number}.{n}" for n in range(2)]
        self._post(
            f"/sessions/{session}/messages",
            [{"role": "user", "content": text} for text in texts],
            f"notes-{number}",
        )
        child = f"{session}-fork-{number}"
        self._post(f"/sessions/{session}/fork", {"new_id": child}, f"fork-{number}")
        shown = [one["content"] for one in self._messages(child)]
        assert shown == [one["content"] for one in self._messages(session)]
        assert set(texts) <= {one for one in shown if isinstance(one, str)}
        self._delete(child)

    def _archive(self, session: str, number: int) -> None:
        before = self._messages(session)
        self._post(f"/sessions/{session}/archive", {}, f"archive-{number}")
        listed = self.roamer.call("GET", f"/archive/{session}")
        assert listed["session"]["id"] == session
        self._post(f"/sessions/{session}/restore", {}, f"restore-{number}")
        assert self._messages(session) == before

    def _rename(self, session: str, number: int) -> None:
        title = f"title {number}"
        self.roamer.call("PATCH", f"/sessions/{session}", json={"title": title})
        assert self.roamer.call("GET", f"/sessions/{session}")["title"] == title

    def _delete(self, session: str) -> None:
        # A repeat of a deletion whose answer was lost finds nothing.
        self.roamer.send("DELETE", f"/sessions/{session}", takes=frozenset({404}))
        gone = self.roamer.send("GET", f"/sessions/{session}", takes=_GONE)
        assert gone.status_code == 404, f"deleted and shown: {gone.text}"

    def _post(self, path: str, body: Any, step: str) -> Any:
        key = f"{self._name}-{self._count}-{step}"
        return self.roamer.call("POST", path, json=body, key=key)

    def _ended(self, session: str, run_id: str) -> dict[str, Any]:
        path = f"/sessions/{session}/runs/{run_id}"
        for _ in range(_POLLS_MAX):
            run: dict[str, Any] = self.roamer.call("GET", path)
            if run["status"] in _ENDED:
                return run
            threading.Event().wait(_POLL_SECONDS)
        raise AssertionError(f"{run_id} never ended")

    def _said(self, session: str, run_id: str) -> str:
        return "".join(
            _text(one)
            for one in self._messages(session)
            if one["role"] == "assistant" and one.get("run_id") == run_id
        )

    def _messages(self, session: str) -> list[dict[str, Any]]:
        asked = {"limit": "1000"}
        page = self.roamer.call("GET", f"/sessions/{session}/messages", params=asked)
        found: list[dict[str, Any]] = page["messages"]
        return found


class OutsideProgram(Visitor):
    """Executes external runs: each of their events is posted to any replica."""

    @override
    def _one_session(self) -> None:
        self._count += 1
        session = f"{self._name}-{self._count}"
        self._post("/sessions", {"id": session}, "create")
        run_id = f"run_{session}"
        opened = self._post(
            f"/sessions/{session}/runs", {"agent": "external", "run_id": run_id}, "open"
        )
        run_id = opened["run_id"]
        words = 0
        for number in range(self._dice.randrange(1, 8)):
            some = self._dice.choice([1, 1, 3])
            events = [
                {"type": "token", "run_id": run_id, "content": f"{words + n} "} for n in range(some)
            ]
            words += some
            self._append(session, events, f"words-{number}")
        self._append(session, [{"type": "complete", "run_id": run_id}], "complete")
        assert self._ended(session, run_id)["status"] == "completed"
        said = self._said(session, run_id)
        assert said == "".join(f"{number} " for number in range(words)), said
        self._delete(session)

    def _append(self, session: str, events: list[dict[str, Any]], step: str) -> None:
        # While an earlier attempt is still at work somewhere, the next one is refused.
        self.roamer.call(
            "POST",
            f"/sessions/{session}/events",
            json=events,
            key=f"{self._name}-{self._count}-{step}",
            again=frozenset({"append-in-progress"}),
        )


def _text(message: dict[str, Any]) -> str:
    content = message["content"]
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")
