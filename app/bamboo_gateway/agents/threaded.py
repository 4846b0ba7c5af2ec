"""A plain (not async) generator, run in a thread of its own and read from the event loop.

One thread from its first line to its last, because generators keep things that belong to a thread:
database handles, context variables, locks. The hand-over is bounded, so a generator that is faster
than the session is held back. The thread is a daemon: one that hangs in foreign code must not keep
the process from ending.
"""

import asyncio
import contextlib
import contextvars
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import anyio

_ITEMS_MAX = 64
"""What may wait between thread and loop: enough to share wake-ups, little enough to stay small."""


@dataclass(frozen=True, slots=True)
class Returned:
    """The last item: what the function returned, when that was no generator, or the generator."""

    value: Any


async def items_from_thread(
    function: Callable[[], Any], name: str, slots: anyio.Semaphore
) -> AsyncGenerator[Any, None]:
    """Calls `function` in a thread and gives what the generator it returns yields, then `Returned`.

    When this generator is closed early, the one in the thread is closed at its next `yield`, in its
    thread, and nobody waits for that.

    Args:
        function: Called in the thread.
        name: The thread's name.
        slots: Bounds the threads; a slot is given back when its thread has ended.

    Raises:
        BaseException: What `function` or its generator raises.
    """
    await slots.acquire()
    loop = asyncio.get_running_loop()
    hand_over = _HandOver(loop)

    def work() -> None:
        hand_over.produce(function)
        _tell(loop, slots.release)

    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(work,), name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError:
        slots.release()
        raise
    try:
        while items := await hand_over.take():
            for item in items:
                yield item
    finally:
        hand_over.leave()


class _HandOver:
    """Items on their way from the thread (`produce`) to the loop (`take`, `leave`)."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._changed = threading.Condition()
        self._items: deque[Any] = deque()
        self._error: BaseException | None = None
        self._ended = False
        self._left = False
        self._arrived = anyio.Event()

    def produce(self, function: Callable[[], Any]) -> None:
        try:
            produced = function()
            if isinstance(produced, Iterator):
                produced = self._iterate(produced)
            self._put(Returned(produced))
        except BaseException as error:  # noqa: BLE001  SystemExit too is the run's, not the thread's
            self._error = error
        finally:
            with self._changed:
                self._ended = True
            _tell(self._loop, self._wake)

    def _iterate(self, items: Iterator[Any]) -> Any:
        try:
            while True:
                try:
                    item = next(items)
                except StopIteration as stop:
                    return stop.value
                if not self._put(item):
                    return None
        finally:
            if (close := getattr(items, "close", None)) is not None:
                close()

    def _put(self, item: Any) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._left or len(self._items) < _ITEMS_MAX)
            if self._left:
                return False
            self._items.append(item)
            first = len(self._items) == 1
        if first:
            _tell(self._loop, self._wake)
        return True

    def _wake(self) -> None:
        self._arrived.set()

    async def take(self) -> list[Any]:
        """Gives what has arrived, at least one item; nothing at the end."""
        while True:
            # The thread holds this lock for a few instructions only.
            with self._changed:
                items = list(self._items)
                self._items.clear()
                ended = self._ended
                self._changed.notify()
            if items:
                return items
            if ended:
                if self._error is not None:
                    raise self._error
                return []
            await self._arrived.wait()
            self._arrived = anyio.Event()

    def leave(self) -> None:
        """Takes nothing more."""
        with self._changed:
            self._left = True
            self._items.clear()
            self._changed.notify()


def _tell(loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> None:
    # The loop may have ended before a thread that nobody waited for.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(callback)
