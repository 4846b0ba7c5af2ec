"""Run a plain (not async) generator in a thread of its own, and read it from the event loop.

The generator keeps one thread from start to end, because it may hold things that belong to a
thread: database handles, context variables, locks. The buffer between thread and loop is bounded,
so a generator that is faster than the session has to wait. The thread is a daemon: if it hangs in
the user's code, the process can still end.
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
"""The most items between thread and loop: enough to share wake-ups, few enough to stay small."""


@dataclass(frozen=True, slots=True)
class Returned:
    """The last item: the return value of the function or, if it is a generator, of that."""

    value: Any


async def items_from_thread(
    function: Callable[[], Any], name: str, slots: anyio.Semaphore
) -> AsyncGenerator[Any, None]:
    """Call `function` in a thread; yield the items of the generator it returns, then `Returned`.

    If this generator is closed early, the one in the thread is closed there at its next `yield`.
    Nobody waits for that.

    Args:
        function: Is called in the thread.
        name: The name of the thread.
        slots: Bounds the number of threads; a slot is free again when its thread has ended.

    Raises:
        BaseException: Any exception of `function` or its generator.
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
    """The buffer between the thread (`produce`) and the loop (`take`, `leave`)."""

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
        """Return the items that have arrived, at least one; none at the end."""
        while True:
            # The thread holds this lock only for a few instructions.
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
        """Stop reading: the thread then closes its generator."""
        with self._changed:
            self._left = True
            self._items.clear()
            self._changed.notify()


def _tell(loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> None:
    # The loop may have ended before the thread, for which nobody waited.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(callback)
