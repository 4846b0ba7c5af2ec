"""R7: one client that reads nothing, beside two hundred that read everything."""

import json
import selectors
import socket
import threading
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from bamboo_gateway.domain.limits import EVENT_QUEUE_BYTES_MAX, SEND_BYTES_MAX
from tests.api.serving import SECONDS, Served, serving
from tests.faults.wire import Wire, buffered, metric, unchunked
from tests.support.waiting import until

READERS = 200
EVENT_BYTES = 8_000
# What a transport lets be behind before the server waits for it: uvicorn's own high water mark.
HIGH_WATER_BYTES = 64 * 1024


class Crowd:
    """Many readers in one thread, each of which reads whatever comes.

    Attributes:
        seen: The number of events each has got; a number that is not the next one fails it.
    """

    def __init__(self, served: Served, count: int, stack: ExitStack) -> None:
        self.seen = [0] * count
        self.failure: str | None = None
        self._rests = [b""] * count
        self._over = threading.Event()
        self._selector = stack.enter_context(selectors.DefaultSelector())
        self._changed = threading.Condition()
        for number in range(count):
            wire = Wire(served.port, "/stream/s")
            stack.callback(wire.sock.close)
            wire.take_until(b"\n\n")
            self._selector.register(wire.sock, selectors.EVENT_READ, number)
        self._thread = threading.Thread(target=self._read, name="crowd")
        self._thread.start()
        stack.callback(self._end)

    def all_have(self, count: int) -> None:
        """Wait until each has got so many."""
        with self._changed:
            done = self._changed.wait_for(
                lambda: self.failure or min(self.seen) >= count, timeout=SECONDS
            )
        assert self.failure is None, self.failure
        assert done, f"{min(self.seen)} of {count}"

    def _read(self) -> None:
        while not self._over.is_set():
            for key, _ in self._selector.select(0.1):
                assert isinstance(key.fileobj, socket.socket)
                data = key.fileobj.recv(1 << 20)
                if not data:
                    self.failure = f"reader {key.data} was cut"
                    self._selector.unregister(key.fileobj)
                self._take(key.data, data)
            with self._changed:
                self._changed.notify_all()

    def _take(self, reader: int, data: bytes) -> None:
        # Frames are found by their text: taking chunks apart 200 times over would be the limit.
        *frames, self._rests[reader] = (self._rests[reader] + data).split(b"\n\n")
        for frame in frames:
            at = frame.find(b'"value":"')
            if at < 0:
                continue
            number = int(frame[at + 9 : frame.index(b" ", at)])
            if number != self.seen[reader]:
                self.failure = f"reader {reader} got {number} after {self.seen[reader]} events"
            self.seen[reader] += 1

    def _end(self) -> None:
        self._over.set()
        self._thread.join(SECONDS)


def append(api: httpx.Client, first: int, count: int) -> None:
    events = [
        {"type": "custom", "name": "n", "value": f"{number} " + "x" * EVENT_BYTES}
        for number in range(first, first + count)
    ]
    assert api.post("/sessions/s/events", json=events).status_code == 201


def lag(api: httpx.Client) -> int:
    (view,) = api.get("/sessions/s/connections").json()["connections"]
    behind: int = view["lag_events"]
    return behind


def numbers(wire: Wire) -> list[int]:
    body = unchunked(wire.raw.partition(b"\r\n\r\n")[2])
    found = []
    for frame in body[: body.rfind(b"\n\n")].split(b"\n\n"):
        told = frame.partition(b"data: ")[2]
        data: Any = json.loads(told or b"{}")  # a ping has none
        if data.get("type") == "custom":
            found.append(int(data["value"].split()[0]))
    return found


@pytest.mark.parametrize(
    ("rounds", "send_timeout"),
    [(60, 1), pytest.param(300, 60, marks=[pytest.mark.slow, pytest.mark.timeout(600)])],
)
def test_r7_a_stalled_reader_costs_others_nothing_and_the_process_no_memory(
    rounds: int, send_timeout: float
) -> None:
    with (
        serving(send_timeout_seconds=send_timeout) as served,
        served.client() as api,
        ExitStack() as stack,
    ):
        api.post("/sessions", json={"id": "s"})
        stalled = Wire(served.port, "/stream/s", buffer_bytes=4096)
        stack.enter_context(stalled.sock)
        stalled.take_until(b"\n\n")
        crowd = Crowd(served, READERS, stack)
        channel = served.app.state.manager._channels.get("s")
        sent, most_buffered, most_queued = 0, 0, 0
        while sent < 5 * rounds or metric(api, "streams_slow_total") == 0:
            append(api, sent, 5)
            sent += 5
            # The next ones come when all have these: the stalled one sets nobody's pace.
            crowd.all_have(sent)
            most_buffered = max(most_buffered, buffered(served))
            most_queued = max(most_queued, channel.queue._bytes)
        assert metric(api, "streams_slow_total") == 1
        assert sent * EVENT_BYTES > 2 * EVENT_QUEUE_BYTES_MAX
        # It has no queue of its own: one send at a time, and the session's queue is bounded.
        assert most_buffered <= SEND_BYTES_MAX + HIGH_WATER_BYTES + EVENT_BYTES
        assert most_queued <= EVENT_QUEUE_BYTES_MAX
        until(lambda: metric(api, "streams_open") == READERS, "the stalled one is gone")

        # What it has is a beginning without gaps, and with its last id it gets the rest.
        stalled.take_all()
        first = numbers(stalled)
        assert first == list(range(len(first)))
        assert len(first) < sent
        last_id = [frame.id for frame in stalled.frames if frame.id][-1]
        again = Wire(served.port, "/stream/s", last_id)
        with again.sock:
            again.take_frame(b'"value":"%d ' % (sent - 1))
        append(api, sent, 1)
        crowd.all_have(sent + 1)
        assert first + numbers(again) == list(range(sent))


def test_r7_a_reader_that_was_slow_and_reads_again_in_time_has_everything() -> None:
    with serving(send_timeout_seconds=60) as served, served.client() as api:
        api.post("/sessions", json={"id": "s"})
        wire = Wire(served.port, "/stream/s", buffer_bytes=4096)
        wire.take_until(b"\n\n")
        sent = 0
        # How much the kernel takes for a reader that reads nothing is its own affair.
        while sent * EVENT_BYTES < 4 * EVENT_QUEUE_BYTES_MAX or lag(api) == 0:
            append(api, sent, 20)
            sent += 20
        assert buffered(served) <= SEND_BYTES_MAX + HIGH_WATER_BYTES + EVENT_BYTES
        api.post("/sessions/s/close")
        with wire.sock:
            wire.take_until(b'"goodbye"')
            wire.take_until(b"\n\n\r\n")
        assert numbers(wire) == list(range(sent))
        assert metric(api, "streams_slow_total") == 0
