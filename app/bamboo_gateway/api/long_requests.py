"""Requests that wait for their answer."""

from collections.abc import Awaitable
from contextlib import suppress
from functools import partial
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request

from bamboo_gateway.api.access_log import MAY_WAIT
from bamboo_gateway.api.caller import check_still_allowed, receive_while_allowed
from bamboo_gateway.api.disconnect import run_until_disconnect, wait_for_disconnect
from bamboo_gateway.api.problems import EdgeError

T = TypeVar("T")


async def unless_disconnected(request: Request, answer: Awaitable[T]) -> T:
    """Await a long answer, until the client disconnects or its credential becomes invalid.

    Call this only after the body has been read.

    Raises:
        ClientDisconnect: The client disconnected.
        EdgeError: The credential became invalid; the caller does not get the answer.
    """
    request.scope[MAY_WAIT] = True

    async def disconnected() -> None:
        with suppress(EdgeError):  # `check_still_allowed` raises it again below
            await wait_for_disconnect(partial(receive_while_allowed, request))

    try:
        result = await run_until_disconnect(answer, disconnected)
    except ClientDisconnect:
        check_still_allowed(request)
        raise
    check_still_allowed(request)
    return result
