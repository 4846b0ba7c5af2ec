"""The caller of a request in its scope, and whether its credential is still valid."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

import anyio
from starlette.requests import Request
from starlette.types import Message

from bamboo_gateway.api.limits import CREDENTIAL_CHECK_SECONDS
from bamboo_gateway.api.problems import EdgeError
from bamboo_gateway.credentials.gate import Gate
from bamboo_gateway.domain.callers import Caller

CALLER: Final = "bamboo.caller"
"""The scope's key of the caller."""

NOBODY: Final = Caller("nobody", "", frozenset())
"""The caller of a route that needs no credential."""


def unauthorized(*, wrong: bool = False) -> EdgeError:
    """Return the 401; it never says what was wrong with a credential (RFC 6750, 3)."""
    error = ', error="invalid_token"' if wrong else ""
    return EdgeError("unauthorized", headers={"WWW-Authenticate": f'Bearer realm="bamboo"{error}'})


def check_still_allowed(request: Request) -> None:
    """Refuse to go on when the caller's credential became invalid during the request.

    Raises:
        EdgeError: The credential became invalid.
    """
    if not still_allowed(request)():
        raise unauthorized(wrong=True)


def still_allowed(request: Request) -> Callable[[], bool]:
    """Return a function that says whether the caller's credential is still valid."""
    gate: Gate = request.app.state.gate
    return partial(gate.is_live, request.scope[CALLER])


@contextmanager
def while_allowed(request: Request) -> Iterator[None]:
    """Cancel the block once the caller's credential becomes invalid.

    One timer serves all waits of the block. A request that waits thousands of times uses this, as
    `receive_while_allowed` makes a deadline for each.

    Raises:
        EdgeError: The credential became invalid.
    """
    is_allowed = still_allowed(request)
    scope = anyio.CancelScope()
    timer: asyncio.TimerHandle

    def set_timer() -> None:
        nonlocal timer
        timer = asyncio.get_running_loop().call_later(CREDENTIAL_CHECK_SECONDS, look)

    def look() -> None:
        if is_allowed():
            set_timer()
        else:
            scope.cancel()

    set_timer()
    with scope:
        try:
            yield
        finally:
            timer.cancel()
    if scope.cancelled_caught:
        raise unauthorized(wrong=True)


async def receive_while_allowed(request: Request) -> Message:
    """Return the client's next message, a disconnect included, while its credential is valid.

    Raises:
        EdgeError: The credential became invalid.
    """
    while True:
        message: Message | None = None
        with anyio.move_on_after(CREDENTIAL_CHECK_SECONDS):
            message = await request.receive()
        check_still_allowed(request)
        if message is not None:
            return message
