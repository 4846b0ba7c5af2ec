"""Producers that retry and what they were promised, for the tests that kill the gateway."""

import json
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any, Self

import httpx

from tests.processes import CALL_SECONDS
from tests.support.clients import local_client

PAUSE_SECONDS = 0.05
# Far above what a restart takes: a producer that is not answered for so long never will be.
ATTEMPTS_MAX = 400


@dataclass
class Promises:
    """What the gateway has acknowledged in one session.

    Attributes:
        values: Of each `custom` event that was acknowledged, its value and its seq.
        messages: The texts of acknowledged messages that start nothing.
        inputs: Those of acknowledged chats, which are said when their turn comes.
        runs: The run ids of acknowledged chats.
    """

    values: dict[str, int] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)

    def now(self) -> Self:
        """Return what is promised at this moment, while its producer goes on."""
        return type(self)(
            dict(self.values), list(self.messages), list(self.inputs), list(self.runs)
        )


class Onlooker:
    """Somebody who lists all sessions and loads large answers, one after the other, without end.

    What is slow is the gateway's loop then: what it hands to another thread, and takes from there,
    comes late.
    """

    def __init__(self, url: str, session_ids: Sequence[str]) -> None:
        self.failure: str | None = None
        self._sessions = session_ids
        self._over = threading.Event()
        self._http = local_client(base_url=f"{url}/api/v1", timeout=CALL_SECONDS)
        self._thread = threading.Thread(target=self._look, name="onlooker")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(100)
        self._http.close()
        assert self.failure is None, self.failure

    def _look(self) -> None:
        paths = ["/sessions?limit=1000"]
        for name in self._sessions:
            paths.append(f"/sessions/{name}?include_messages=true")
            paths.append("/sessions?limit=1000&sort_by=title")
            paths.append(f"/sessions/{name}/events?limit=1000")
        for path in cycle(paths):
            if self._over.is_set():
                return
            try:
                response = self._http.get(path)
            except httpx.TransportError:
                self._over.wait(PAUSE_SECONDS)
                continue
            if response.status_code not in {200, 503}:
                self.failure = f"GET {path}: {response.status_code} {response.text}"
                return


class Producer:
    """One program that writes into one session, a request after the other.

    Each request has an idempotency key and is repeated until it is answered, whatever happens to
    the gateway in the meantime; so each of its values belongs into the log exactly once.
    """

    def __init__(self, url: str, session_id: str, name: str, seed: int) -> None:
        self.promises = Promises()
        self.failure: str | None = None
        self._session = session_id
        self._name = name
        self._random = random.Random(seed)
        self._count = 0
        self._over = threading.Event()
        self._http = local_client(base_url=f"{url}/api/v1", timeout=CALL_SECONDS)
        self._thread = threading.Thread(target=self._produce, name=f"producer {name}")

    def start(self) -> None:
        """Begins to write."""
        self._thread.start()

    def finish(self) -> None:
        """Let it see its last request through, and end it."""
        self._over.set()
        self._thread.join(100)
        assert not self._thread.is_alive(), f"{self._name} was never answered"
        self._http.close()
        assert self.failure is None, self.failure

    def _acts(self) -> list[Callable[[], None]]:
        return [
            self._one_event,
            self._an_array_of_events,
            self._a_stream_of_lines,
            self._messages,
            self._chat,
        ]

    def _produce(self) -> None:
        acts = self._acts()
        try:
            while not self._over.is_set():
                self._random.choice(acts)()
        except AssertionError as error:
            self.failure = str(error)

    def _one_event(self) -> None:
        (event,) = self._events(1)
        self._append([event], lambda: {"json": event})

    def _an_array_of_events(self) -> None:
        events = self._events(3)
        self._append(events, lambda: {"json": events})

    def _a_stream_of_lines(self) -> None:
        # Some are long enough that a kill finds lines decided and not stored.
        events = self._events(self._random.choice([5, 5, 100]))

        def lines() -> Iterator[bytes]:
            for event in events:
                yield json.dumps(event).encode() + b"\n"

        headers = {"Content-Type": "application/x-ndjson"}
        self._append(events, lambda: {"content": lines(), "headers": headers}, whole=False)

    def _messages(self) -> None:
        texts = [f"{self._name} says {self._next()}" for _ in range(2)]
        body = [{"role": "user", "content": text} for text in texts]
        self._post(f"/sessions/{self._session}/messages", lambda: {"json": body})
        self.promises.messages += texts

    def _chat(self) -> None:
        text = f"{self._name} asks {self._next()}"
        run_id = f"run_{self._name}-{self._count}"
        body = {
            "message": text,
            "session_id": self._session,
            "run_id": run_id,
            "options": {"delay_ms": self._random.choice([0, 0, 5]), "tokens": 6},
        }
        answer = self._post("/chat", lambda: {"json": body})
        assert answer["run_id"] == run_id, answer
        self.promises.runs.append(run_id)
        self.promises.inputs.append(text)

    def _append(
        self,
        events: list[dict[str, Any]],
        request: Callable[[], dict[str, Any]],
        *,
        whole: bool = True,
    ) -> None:
        answer = self._post(f"/sessions/{self._session}/events", request)
        first, last = (int(answer[end].split("-")[1]) for end in ("first", "last"))
        assert answer["count"] == len(events), answer
        values = [event["value"] for event in events]
        if whole:
            assert last - first == len(events) - 1, answer
            self.promises.values |= dict(zip(values, range(first, last + 1), strict=True))
        else:
            # Other writers may have come between the lines; the ends are theirs.
            self.promises.values |= dict.fromkeys(values, 0)
            self.promises.values |= {values[0]: first, values[-1]: last}

    def _post(self, path: str, request: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Post until there is an answer; `request` makes the same request each time."""
        key = f"{self._name}-{self._count}"
        for _ in range(ATTEMPTS_MAX):
            given = request()
            headers = {**given.pop("headers", {}), "Idempotency-Key": key}
            try:
                response = self._http.post(path, headers=headers, **given)
            except httpx.TransportError:
                threading.Event().wait(PAUSE_SECONDS)
                continue
            if response.status_code in {429, 503}:
                threading.Event().wait(PAUSE_SECONDS)
                continue
            assert response.is_success, f"POST {path}: {response.status_code} {response.text}"
            answer: dict[str, Any] = response.json()
            return answer
        raise AssertionError(f"POST {path}: no answer")

    def _events(self, count: int) -> list[dict[str, Any]]:
        return [
            {"type": "custom", "name": self._name, "value": f"{self._name}-{self._next()}"}
            for _ in range(count)
        ]

    def _next(self) -> int:
        self._count += 1
        return self._count
