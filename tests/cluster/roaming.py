"""Clients that come to another replica with every request, as behind a balancer without stickiness.

A request that is not answered, or with 429, 502, 503 or 504, is sent again to any replica, with the
same `Idempotency-Key`. Every promise holds at every replica: what an answer has said is true for
the next request, wherever it goes.
"""

import random
import threading
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import httpx
from typing_extensions import override

from tests.crash.traffic import Producer
from tests.support.clients import local_client

ATTEMPTS_MAX = 600
PAUSE_SECONDS = 0.05
# How long a client waits for an answer before it turns to another replica: longer than answers
# take on a busy machine, shorter than the test holds up a replica.
_PATIENCE_SECONDS = 4.0
_HISTORY_MAX = 12
_TRY_AGAIN = frozenset({429, 502, 503, 504})


class Roamer:
    """One client of all replicas.

    Attributes:
        acts: How many requests have been answered.
        history: The last requests: when, to which address, what, and what came of it.
    """

    def __init__(self, urls: Sequence[str], dice: random.Random) -> None:
        self.acts = 0
        self.history: deque[str] = deque(maxlen=_HISTORY_MAX)
        self._dice = dice
        self._clients = [
            local_client(base_url=f"{url}/api/v1", timeout=_PATIENCE_SECONDS) for url in urls
        ]

    def close(self) -> None:
        """Close all connections."""
        for client in self._clients:
            client.close()

    def send(
        self,
        method: str,
        path: str,
        *,
        key: str | None = None,
        request: Callable[[], dict[str, Any]] | None = None,
        takes: frozenset[int] = frozenset(),
        again: frozenset[str] = frozenset(),
        **given: Any,
    ) -> httpx.Response:
        """Send a request until it is answered.

        Args:
            method: The method.
            path: The path below `/api/v1`.
            key: The idempotency key.
            request: Makes the request anew for each attempt; else `given` is sent each time.
            takes: The statuses besides 2xx that are an answer.
            again: The codes of refusals that pass by themselves.
            **given: As `httpx.Client.request` takes it.
        """
        for _ in range(ATTEMPTS_MAX):
            asked = dict(request() if request is not None else given)
            headers = dict(asked.pop("headers", {}))
            if key is not None:
                headers["Idempotency-Key"] = key
            client = self._dice.choice(self._clients)
            try:
                response = client.request(method, path, headers=headers, **asked)
            except httpx.TransportError as error:
                self._note(client, method, path, key, type(error).__name__)
                threading.Event().wait(PAUSE_SECONDS)
                continue
            self._note(client, method, path, key, response.status_code)
            if response.status_code in _TRY_AGAIN or _code(response) in again:
                threading.Event().wait(PAUSE_SECONDS)
                continue
            assert response.is_success or response.status_code in takes, (
                f"{method} {path}: {response.status_code} {response.text}"
            )
            self.acts += 1
            return response
        raise AssertionError(f"{method} {path}: no answer")

    def _note(
        self, client: httpx.Client, method: str, path: str, key: str | None, came: object
    ) -> None:
        now = datetime.now(UTC).strftime("%H:%M:%S.%f")[:-3]
        self.history.append(f"{now} :{client.base_url.port} {method} {path} ({key}): {came}")

    def call(self, method: str, path: str, **how: Any) -> Any:
        """Send a request until it is answered; return the JSON of the answer."""
        response = self.send(method, path, **how)
        return response.json() if response.content else None


class RoamingProducer(Producer):
    """A producer whose requests go to any replica, and who looks at what it was promised."""

    def __init__(self, urls: Sequence[str], session_id: str, name: str, seed: int) -> None:
        super().__init__(urls[0], session_id, name, seed)
        self.roamer = Roamer(urls, self._random)
        self._position = (0, 0)

    @override
    def finish(self) -> None:
        try:
            super().finish()
        finally:
            self.roamer.close()

    @override
    def _produce(self) -> None:
        super()._produce()
        if self.failure:
            self.failure = "\n".join([self.failure, *self.roamer.history])

    @override
    def _acts(self) -> list[Callable[[], None]]:
        chats: list[Callable[[], None]] = [self._interrupting_chat, self._cancelled_chat]
        return [*super()._acts(), *super()._acts(), *chats, self._look, self._look]

    @override
    def _post(self, path: str, request: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        key = f"{self._name}-{self._count}"
        answer: dict[str, Any] = self.roamer.call("POST", path, key=key, request=request)
        position = answer.get("last") or answer.get("position")
        if isinstance(position, str):
            self._position = max(self._position, _numbers(position))
        return answer

    def _interrupting_chat(self) -> None:
        self._chat_in("interrupt")

    def _cancelled_chat(self) -> None:
        run_id = self._chat_in("enqueue")
        path = f"/sessions/{self._session}/runs/{run_id}"
        answered = self.roamer.call("POST", f"{path}/cancel")
        if answered.get("cancel_requested"):
            return
        assert answered["status"] not in {"queued", "running"}, answered
        seen = self.roamer.call("GET", path)
        assert seen["status"] == answered["status"], (answered, seen)

    def _chat_in(self, on_busy: str) -> str:
        text = f"{self._name} asks {self._next()}"
        run_id = f"run_{self._name}-{self._count}"
        body = {
            "message": text,
            "session_id": self._session,
            "run_id": run_id,
            "on_busy": on_busy,
            "options": {"delay_ms": 20, "tokens": 30},
        }
        answer = self._post("/chat", lambda: {"json": body})
        assert answer["run_id"] == run_id, answer
        # Whether its input is ever said depends on who ends it first.
        self.promises.runs.append(run_id)
        return run_id

    def _look(self) -> None:
        """Check that what was acknowledged by one replica is there at any other."""
        session = self.roamer.call("GET", f"/sessions/{self._session}")
        assert _numbers(session["position"]) >= self._position, (
            f"{session['position']} was shown after {self._position} was acknowledged"
        )
        if self.promises.messages:
            asked = {"limit": "1000", "order": "desc"}
            page = self.roamer.call("GET", f"/sessions/{self._session}/messages", params=asked)
            if not page["has_more"]:
                said = {one["content"] for one in page["messages"] if one["role"] == "user"}
                assert self.promises.messages[-1] in said, "acknowledged and not shown"


def _numbers(position: str) -> tuple[int, int]:
    epoch, _, seq = position.partition("-")
    return int(epoch), int(seq)


def _code(response: httpx.Response) -> str | None:
    if response.status_code != 409:
        return None
    code = response.json().get("code")
    return str(code)
