"""Gives memory back that nobody uses and the process still holds.

Python's collector counts objects and not bytes: a body of 15 MB that only a ring of references
holds is a few dozen objects, so that gigabytes would wait for it. The gateway's own requests leave
no rings (`tests/api/test_garbage.py`); an agent's code in this process may. And glibc keeps what is
freed: its threshold from which a block is given back at once grows with the blocks, up to 32 MiB.
Ten exports of 100 MB that were left early held 170 MB like that, which `malloc_trim` gives back in
50 ms; but of the heaps that other threads have it leaves the ends, 34 MB each, so there is one heap
for all. A lower threshold instead would have the kernel make each large block anew.
"""

import ctypes
import gc
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import anyio
from anyio import to_thread

_M_ARENA_MAX: Final = -8
"""The name of the number of heaps, in glibc's malloc.h."""

_LOOK_SECONDS: Final = 1.0
"""How often the process looks at what it holds, which takes 0.02 ms."""

GROWTH_BYTES_MAX: Final = 64 * 1024 * 1024
"""Growth after which it collects: four of the largest bodies, and what one request may cost."""

COLLECT_SECONDS_MAX: Final = 60.0
"""After so long it collects whatever was held, if there were requests; and growth that could not be
given back in that time is the sessions' own."""

PAUSE_SHARE_MAX: Final = 0.01
"""The share of time that collections may take. A full one takes 0.2 ms for each 1,000 objects that
were made since the start and stay, which are 4 a session: 80 ms with 100,000 new sessions in
memory, which is then done every 8 s at most."""


class MemoryKeeper:
    """Decides when a full collection is due.

    Args:
        served: Gives how many requests were served so far.
    """

    def __init__(self, served: Callable[[], int]) -> None:
        self._served = served
        self._served_then = 0
        self._floor = 0
        self._patience = _LOOK_SECONDS
        self._not_before = self._not_after = 0.0

    async def run(self) -> None:
        """Looks after the process's memory until it is cancelled."""
        self.begin(anyio.current_time(), await to_thread.run_sync(resident_bytes))
        while True:
            await anyio.sleep(_LOOK_SECONDS)
            held = await to_thread.run_sync(resident_bytes)
            # Who has switched the collector off wants no pauses.
            if gc.isenabled() and self.is_due(anyio.current_time(), held):
                began = time.thread_time()
                gc.collect()
                pause = time.thread_time() - began
                # In a thread: the loop goes on meanwhile, unless it needs a large block itself.
                await to_thread.run_sync(_trim)
                left = await to_thread.run_sync(resident_bytes)
                self.collected(anyio.current_time(), pause, left)

    def begin(self, now: float, held: int) -> None:
        """Takes what is held now for what the process needs.

        Args:
            now: The monotonic time.
            held: What `resident_bytes` gives.
        """
        self._floor = held
        self._not_after = now + COLLECT_SECONDS_MAX

    def is_due(self, now: float, held: int) -> bool:
        """Tells whether enough is held, or long enough has passed since the last collection."""
        self._floor = min(self._floor, held)
        has_grown = held - self._floor > GROWTH_BYTES_MAX
        is_late = now >= self._not_after and self._served() != self._served_then
        return now >= self._not_before and (has_grown or is_late)

    def collected(self, now: float, pause: float, held: int) -> None:
        """Sets when the next one may be, after a collection of `pause` seconds that left `held`.

        What is still there may be needed by requests that are at work: it looks again after 1, 2,
        4 … s.
        """
        if held - self._floor <= GROWTH_BYTES_MAX:
            self._patience = _LOOK_SECONDS
        elif self._patience < COLLECT_SECONDS_MAX:
            self._patience *= 2
        else:
            self._floor, self._patience = held, _LOOK_SECONDS
        self._served_then = self._served()
        self._not_before = now + max(self._patience, pause / PAUSE_SHARE_MAX)
        self._not_after = now + COLLECT_SECONDS_MAX


def resident_bytes() -> int:
    """Gives what the process has of the machine's memory; 0 where that cannot be told."""
    try:
        pages = Path("/proc/self/statm").read_bytes().split()[1]
    except OSError:  # not Linux
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def share_one_heap() -> None:
    """Has all threads share one heap of glibc's; to be called before there are any.

    The interpreter's lock lets one of them allocate at a time anyway.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)


def _trim() -> None:
    """Has glibc give back what is free; other C libraries do so by themselves."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
