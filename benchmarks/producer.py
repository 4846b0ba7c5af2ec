"""What speaks in every server that is measured: the same generator, in the same process and loop.

The gateway runs it as a `python:` agent (`agent` below), a peer consumes it directly. Each word it
yields begins with a stamp, `@` + 19 digits of CLOCK_MONOTONIC nanoseconds + `@`, from which the
load client computes the latency. At a pace the stamp is the moment that was planned, so a producer
that is held back counts as late (no coordinated omission).

Options: `{"mode": "say", "words": N}` says so many words and ends; `{"mode": "loop"}` says as many
as the control socket is told (`go N`); `{"mode": "pace", "phase": P}` says words as often and as
long as the control socket is told (`start T RATE SECONDS`), from T and `phase` of an interval on,
and waits to be told again. All producers of a process share one timer, so that what is measured is
the delivery and not a thousand timers. `go 0` and `stop` end them.
"""

import asyncio
import json
import os
import resource
import socket
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FILLER = "@ the quick brown fox jumps "
_TICK_SECONDS = 0.001

active = 0
"""Producers at work in this process."""


async def words(options: dict[str, Any]) -> AsyncIterator[str]:
    """Yields words as the options say; ends when told, or when its time is over."""
    global active
    active += 1
    try:
        if options["mode"] == "say":
            for _ in range(int(options["words"])):
                yield f"@{time.monotonic_ns():019d}{_FILLER}"
            return
        if options["mode"] == "loop":
            while count := await VALVE.take():
                for _ in range(count):
                    yield f"@{time.monotonic_ns():019d}{_FILLER}"
            return
        while (pace := await START.wait()) is not None:
            interval = 1e9 / pace.rate
            planned = pace.moment_ns + interval * options["phase"]
            end = pace.moment_ns + pace.seconds * 1e9
            while planned < end and time.monotonic_ns() < end:
                await TICKER.until(planned)
                yield f"@{int(planned):019d}{_FILLER}"
                planned += interval
    finally:
        active -= 1


async def agent(turn: Any) -> AsyncIterator[str]:
    """The same as an agent of the gateway."""
    async for word in words(dict(turn.options)):
        yield word


class Valve:
    """Lets words through by number; 0 ends the producer."""

    def __init__(self) -> None:
        self._given: deque[int] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def give(self, count: int) -> None:
        """Allows `count` more words."""
        self._given.append(count)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def take(self) -> int:
        """Wait for the next allowance."""
        while not self._given:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._given.popleft()


@dataclass(frozen=True)
class Pace:
    """From when on, how often and how long a producer speaks. The moment may lie ahead."""

    moment_ns: int
    rate: float
    seconds: float


class StartSignal:
    """The signal that gives all waiting producers their next pace, or ends them."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[Pace | None]] = []

    async def wait(self) -> Pace | None:
        """Wait for the next pace; None ends the producer."""
        future: asyncio.Future[Pace | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        return await future

    def give(self, pace: Pace | None) -> None:
        """Start the tasks that wait, or end them."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(pace)

    @property
    def waiting(self) -> int:
        """How many are ready."""
        return len(self._waiting)


class Ticker:
    """One timer a millisecond for all producers that keep a pace."""

    def __init__(self) -> None:
        self._slots: dict[int, list[asyncio.Future[None]]] = {}
        self._last = 0
        self._running = False

    async def until(self, planned_ns: float) -> None:
        """Wait until the first tick at or after the moment, for one cycle of the loop at least."""
        loop = asyncio.get_running_loop()
        now = int(time.monotonic_ns() / 1e6)
        slot = max(int(planned_ns / 1e6) + 1, now)
        if not self._running:
            self._running, self._last = True, now - 1
            loop.call_soon(self._tick, loop)
        future = loop.create_future()
        self._slots.setdefault(max(slot, self._last + 1), []).append(future)
        await future

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        now = int(time.monotonic_ns() / 1e6)
        for slot in range(self._last + 1, now + 1):
            for future in self._slots.pop(slot, ()):
                if not future.done():
                    future.set_result(None)
        self._last = now
        if self._slots or active > START.waiting:
            loop.call_later(_TICK_SECONDS, self._tick, loop)
        else:
            self._running = False


VALVE = Valve()
START = StartSignal()
TICKER = Ticker()


def listen() -> int:
    """Opens this process's control socket on the running loop; gives its UDP port.

    `go N` opens the valve, `start T RATE SECONDS` gives the start, `stop` ends those that wait for
    it; `stats` is answered with a JSON object: resident bytes, tasks, seconds of CPU, producers at
    work and those that wait for the start.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    loop.add_reader(sock, _obey, sock)
    return int(sock.getsockname()[1])


def _obey(sock: socket.socket) -> None:
    while True:
        try:
            data, sender = sock.recvfrom(128)
        except BlockingIOError:
            return
        command = data.split()
        if command[0] == b"go":
            VALVE.give(int(command[1]))
        elif command[0] == b"start":
            START.give(Pace(int(command[1]), float(command[2]), float(command[3])))
        elif command[0] == b"stop":
            START.give(None)
        elif command[0] == b"stats":
            sock.sendto(json.dumps(_stats()).encode(), sender)


def _stats() -> dict[str, float]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return {
        "resident_bytes": pages * os.sysconf("SC_PAGE_SIZE"),
        "tasks": len(asyncio.all_tasks()),
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "active": active,
        "waiting": START.waiting,
    }
