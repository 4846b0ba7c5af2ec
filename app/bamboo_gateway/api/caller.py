"""The caller of a request: where authentication leaves it, and whether it may still go on."""

from typing import Final

import anyio
from starlette.requests import Request
from starlette.types import Message

from bamboo_gateway.api.limits import RIGHT_LOOK_SECONDS
from bamboo_gateway.api.problems import EdgeError
from bamboo_gateway.credentials.gate import Gate
from bamboo_gateway.domain.callers import Caller

CALLER: Final = "bamboo.caller"
"""Where the scope keeps the caller."""

NOBODY: Final = Caller("nobody", "", frozenset())
"""Whoever asks for what needs no credential."""


def unauthorized(*, wrong: bool = False) -> EdgeError:
    """Makes the refusal; what was wrong with a credential is not said (RFC 6750, 3)."""
    error = ', error="invalid_token"' if wrong else ""
    return EdgeError("unauthorized", headers={"WWW-Authenticate": f'Bearer realm="bamboo"{error}'})


def check_still_allowed(request: Request) -> None:
    """Refuses to go on for a caller whose right has ended while the request was at work.

    Raises:
        EdgeError: It has.
    """
    gate: Gate = request.app.state.gate
    if not gate.is_live(request.scope[CALLER]):
        raise unauthorized(wrong=True)


async def receive_while_allowed(request: Request) -> Message:
    """Waits for what the client sends next, or for its leaving, for as long as its right lasts.

    Raises:
        EdgeError: Its right has ended.
    """
    while True:
        message: Message | None = None
        with anyio.move_on_after(RIGHT_LOOK_SECONDS):
            message = await request.receive()
        check_still_allowed(request)
        if message is not None:
            return message
