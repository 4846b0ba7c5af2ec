"""Return memory to the system that nothing uses and the process still holds.

Python's garbage collector counts objects and not bytes: a body of 15 MB in a reference cycle is a
few dozen objects, so that gigabytes could wait for a collection. The gateway's own requests leave
no cycles (`tests/api/test_garbage.py`), but an agent's code in this process may.

glibc keeps freed memory: the size from which it returns a block at once grows with the blocks, up
to 32 MiB. Ten exports of 100 MB whose clients left early held 170 MB like that, which `malloc_trim`
returns in 50 ms. But it leaves the ends of other threads' heaps, 34 MB each, so that all threads
share one heap. With a lower threshold instead the kernel would map each large block anew.
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
"""`M_ARENA_MAX` of glibc's malloc.h."""

_LOOK_SECONDS: Final = 1.0
"""How often the keeper reads the process's memory, which takes 0.02 ms."""

GROWTH_BYTES_MAX: Final = 64 * 1024 * 1024
"""Growth after which it collects: four of the largest bodies, or what a request may cost."""

COLLECT_SECONDS_MAX: Final = 60.0
"""After so long it collects without growth, if there were requests. Growth that it could not return
in that time belongs to the sessions."""

PAUSE_SHARE_MAX: Final = 0.01
"""The share of time that collections may take. A full collection takes 0.2 ms for each 1,000
lasting objects made since the start. A session has 4: with 100,000 new sessions in memory a
collection takes 80 ms, and runs every 8 s at most."""


class MemoryKeeper:
    """Decide when a full collection is due, and run it.

    Args:
        served: Returns the number of requests served so far.
    """

    def __init__(self, served: Callable[[], int]) -> None:
        self._served = served
        self._served_then = 0
        self._floor = 0
        self._patience = _LOOK_SECONDS
        self._not_before = self._not_after = 0.0

    async def run(self) -> None:
        """Watch the process's memory until cancelled."""
        self.begin(anyio.current_time(), await to_thread.run_sync(resident_bytes))
        while True:
            await anyio.sleep(_LOOK_SECONDS)
            held = await to_thread.run_sync(resident_bytes)
            # Code that has switched the collector off wants no pauses.
            if gc.isenabled() and self.is_due(anyio.current_time(), held):
                began = time.thread_time()
                gc.collect()
                pause = time.thread_time() - began
                # In a thread, so that the loop goes on unless it needs a large block itself.
                await to_thread.run_sync(_trim)
                left = await to_thread.run_sync(resident_bytes)
                self.collected(anyio.current_time(), pause, left)

    def begin(self, now: float, held: int) -> None:
        """Take the memory held now as what the process needs.

        Args:
            now: The monotonic time.
            held: The result of `resident_bytes`.
        """
        self._floor = held
        self._not_after = now + COLLECT_SECONDS_MAX

    def is_due(self, now: float, held: int) -> bool:
        """Return whether memory has grown enough, or the last collection is long enough ago."""
        self._floor = min(self._floor, held)
        has_grown = held - self._floor > GROWTH_BYTES_MAX
        is_late = now >= self._not_after and self._served() != self._served_then
        return now >= self._not_before and (has_grown or is_late)

    def collected(self, now: float, pause: float, held: int) -> None:
        """Schedule the next collection after one of `pause` seconds that left `held` bytes.

        Active requests may need what is still there: the next one runs after 1, 2, 4 … s.
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
    """Return the process's resident bytes; 0 on a system that does not tell them."""
    try:
        pages = Path("/proc/self/statm").read_bytes().split()[1]
    except OSError:  # not Linux
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def share_one_heap() -> None:
    """Make all threads share one glibc heap. Call this before there are other threads.

    The interpreter's lock lets only one of them allocate at a time anyway.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)


def _trim() -> None:
    """Make glibc return free memory; other C libraries do so by themselves."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
