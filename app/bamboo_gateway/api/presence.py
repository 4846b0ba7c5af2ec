"""Whether a request's client is still there, while something is done for it.

A task that ends as cancelled stays in memory until the garbage collector runs, with all that its
frames hold, like a request's body or a piece of an answer: anyio's done-callback has the task's
`CancelledError` in a local variable, whose traceback has the callback's frame. So what is done for
a client is done in the task of its request, which ends otherwise, and the watcher is `forgettable`.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import anyio
from starlette.requests import ClientDisconnect
from starlette.types import Receive

T = TypeVar("T")


async def while_present(work: Awaitable[T], leaving: Callable[[], Awaitable[object]]) -> T:
    """Awaits `work`, and cancels it when `leaving` is done first.

    Raises:
        ClientDisconnect: `leaving` was done first.
    """
    results: list[T] = []
    error: Exception | None = None

    async def watch() -> None:
        await leaving()
        group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(forgettable, watch, name="watch-client")
        try:
            results.append(await work)
        except Exception as caught:  # noqa: BLE001 - carried out of the group as it is
            error = caught
        group.cancel_scope.cancel()
    try:
        if error is not None:
            raise error
    finally:
        del error  # its traceback has this frame
    if not results:
        raise ClientDisconnect
    return results[0]


async def forgettable(wait: Callable[[], Awaitable[object]]) -> None:
    """Waits, and ends without an error when it is cancelled: the last thing that its task does."""
    with suppress(anyio.get_cancelled_exc_class()):
        await wait()


async def left(receive: Receive) -> None:
    """Waits until the client has left; what is still sent of the body is dropped."""
    while (await receive())["type"] != "http.disconnect":
        pass
