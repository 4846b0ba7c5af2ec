"""Work for a client that may disconnect before the work is done.

A task that ends as cancelled stays in memory until the garbage collector runs, with all that its
frames hold, like a request's body or a piece of an answer: anyio's done-callback has the task's
`CancelledError` in a local variable, whose traceback has the callback's frame. Therefore the
request's own task does the work, which does not end as cancelled, and the task that watches the
client absorbs its cancellation (`absorb_cancellation`).
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import anyio
from starlette.requests import ClientDisconnect
from starlette.types import Receive

T = TypeVar("T")


async def run_until_disconnect(
    work: Awaitable[T], disconnected: Callable[[], Awaitable[object]]
) -> T:
    """Await `work`, and cancel it when `disconnected` returns first.

    Raises:
        ClientDisconnect: `disconnected` returned first.
        CancelledError: The server has cancelled the request.
    """
    results: list[T] = []
    error: Exception | None = None
    has_left = False

    async def watch() -> None:
        nonlocal has_left
        await disconnected()
        has_left = True
        group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(absorb_cancellation, watch, name="watch-client")
        try:
            results.append(await work)
        except Exception as caught:  # noqa: BLE001 - raised again outside of the group
            error = caught
        group.cancel_scope.cancel()
    try:
        if error is not None:
            raise error
    finally:
        del error  # its traceback has this frame
    if not results:
        # The group takes every cancellation of its own task for its own.
        raise ClientDisconnect if has_left else anyio.get_cancelled_exc_class()
    return results[0]


async def absorb_cancellation(wait: Callable[[], Awaitable[object]]) -> None:
    """Await `wait`, and return normally when it is cancelled: the last call of its task."""
    with suppress(anyio.get_cancelled_exc_class()):
        await wait()


async def wait_for_disconnect(receive: Receive) -> None:
    """Wait until the client has disconnected; drop what it still sends of its body."""
    while (await receive())["type"] != "http.disconnect":
        pass
