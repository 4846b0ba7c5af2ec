"""Readers that change the replica every few moments, and go on behind the last event they saw."""

import random
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from typing_extensions import override

from tests.e2e.watchers import HttpxSse, Seen

_STAYS_SECONDS = (0.3, 3.0)


class RoamingReader(HttpxSse):
    """One reader of one session, who is at a replica for a moment and then at another.

    Attributes:
        moves: How often it has come to a replica.
    """

    def __init__(self, urls: Sequence[str], session_id: str, seed: int) -> None:
        super().__init__()
        # A replica that stands still keeps nobody: the stream is given up and taken elsewhere.
        self._http.timeout = 5.0
        self.moves = 0
        self._urls = urls
        self._session = session_id
        self._dice = random.Random(seed)

    def begin(self) -> None:
        """Begin to read."""
        self.start(f"/api/v1/stream/{self._session}?from=start&heartbeat=event")

    @override
    def one_stream(self, url: str, last_id: str | None) -> Iterator[Seen]:
        self.moves += 1
        leaves = time.monotonic() + self._dice.uniform(*_STAYS_SECONDS)
        for seen in super().one_stream(self._dice.choice(self._urls) + url, last_id):
            yield seen
            if time.monotonic() > leaves:
                return


class ChangesReader(threading.Thread):
    """Somebody who follows `/changes` by long polls, at any replica.

    Attributes:
        positions: The last position of each session that it was told of.
        gone: The sessions it was told are gone.
    """

    def __init__(self, send: Any, cursor: str) -> None:
        super().__init__(name="changes")
        self.positions: dict[str, str] = {}
        self.gone: set[str] = set()
        self.failure: str | None = None
        self._send = send
        self._cursor = cursor
        self._over = threading.Event()

    def finish(self) -> None:
        """End it, behind all that has happened before."""
        self._over.set()
        self.join(100)
        assert not self.is_alive()
        assert self.failure is None, self.failure

    @override
    def run(self) -> None:
        try:
            while True:
                is_last = self._over.is_set()
                if not self._take("0" if is_last else "2") and is_last:
                    return
        except Exception as error:  # noqa: BLE001 - a thread's failure is told by `finish`
            self.failure = f"changes: {type(error).__name__}: {error}"

    def _take(self, wait: str) -> bool:
        page = self._send("GET", "/changes", params={"after": self._cursor, "wait": wait}).json()
        for change in page["changes"]:
            name = change["session_id"]
            if change["type"] == "session_gone":
                self.gone.add(name)
                self.positions.pop(name, None)
            else:
                self.gone.discard(name)
                self.positions[name] = change["position"]
        self._cursor = page["next"]
        return bool(page["changes"])
