"""A memory budget for request bodies, in all and per caller.

The gateway holds a whole body from its first byte, as long as the client takes to send it, until
the request is answered. Therefore it reserves a body's bytes before it reads them. A request for
which there is no room waits with nothing read, and TCP holds its client back. A request that has
reserved something never waits, so that no two requests wait for each other. A client that sends
too slowly is cut (`server.http1`), so that every reservation ends and makes room.
"""

from collections import Counter
from typing import Final

import anyio
from starlette.types import Scope

from bamboo_gateway.api.caller import CALLER, NOBODY
from bamboo_gateway.api.limits import (
    BODIES_WAITING_MAX,
    BODIES_WAITING_MAX_PER_CALLER,
    BODY_BYTES_FREE,
    BODY_WAIT_SECONDS_MAX,
)
from bamboo_gateway.domain.callers import LOCAL_CALLER, Caller
from bamboo_gateway.domain.errors import BambooError, LimitReached, Unavailable
from bamboo_gateway.domain.networks import network_of
from bamboo_gateway.observability.metrics import Measures
from bamboo_gateway.settings import Settings

_RESERVATION: Final = "bamboo.body_reservation"
"""The scope's key of the reservation."""


class BodyReservation:
    """The reservation of one request's body.

    Attributes:
        caller: Whose share it counts against.
        size: How many bytes are reserved.
    """

    __slots__ = ("_memory", "caller", "size")

    def __init__(self, memory: "BodyMemory", caller: str) -> None:
        self._memory = memory
        self.caller = caller
        self.size = 0

    async def hold(self, size: int) -> None:
        """Reserve `size` bytes in all before they are read.

        Wait for room only while nothing is reserved. A route that knows the size reserves it at
        once; a body that proves longer when there is no room is refused.

        Raises:
            LimitReached: The caller's share stayed full.
            Unavailable: The whole budget stayed full, or too many requests wait for it.
        """
        if size > BODY_BYTES_FREE and size > self.size:
            await self._memory.grow(self, size)

    def release(self, size: int = 0) -> None:
        """Free all but `size` bytes."""
        if size < self.size:
            self._memory.shrink(self, size if size > BODY_BYTES_FREE else 0)


class _Waiter:
    """A request that waits for its first reservation."""

    __slots__ = ("admitted", "body", "size")

    def __init__(self, body: BodyReservation, size: int) -> None:
        self.body = body
        self.size = size
        self.admitted = anyio.Event()


class BodyMemory:
    """The budget of all bodies. Use it on the event loop only.

    Attributes:
        held: How many bytes are reserved in all.
    """

    def __init__(self, settings: Settings) -> None:
        # A body of the largest allowed size always finds room when nothing else is reserved.
        self._most_of_one = max(settings.max_body_memory_bytes_per_caller, settings.max_body_bytes)
        self._most = max(settings.max_body_memory_bytes, self._most_of_one)
        self.held = 0
        self._by_caller = Counter[str]()
        self._waiting: list[_Waiter] = []

    async def grow(self, body: BodyReservation, size: int) -> None:
        """Reserve `size` bytes in all for a body; `BodyReservation.hold` says how."""
        # A body that has reserved something came before those that wait.
        if (body.size or not self._waiting) and self._has_room(body, size):
            self._count(body, size)
        elif body.size:
            raise self._refusal(body, size)
        else:
            await self._wait(_Waiter(body, size))

    def shrink(self, body: BodyReservation, size: int) -> None:
        """Reduce a body's reservation to `size` bytes, and admit those that wait."""
        self._count(body, size)
        if self._waiting:
            self._admit()

    def measures(self) -> Measures:
        """Return the metric families about bodies."""
        return {"body_bytes_held": self.held, "bodies_waiting": len(self._waiting)}

    async def _wait(self, waiter: _Waiter) -> None:
        self._waiting.append(waiter)
        self._admit()
        try:
            if not waiter.admitted.is_set() and not self._is_crowded(waiter.body.caller):
                with anyio.move_on_after(BODY_WAIT_SECONDS_MAX):
                    await waiter.admitted.wait()
        finally:
            if not waiter.admitted.is_set():
                self._waiting.remove(waiter)
                # The bodies behind it may be smaller.
                self._admit()
        if not waiter.admitted.is_set():
            raise self._refusal(waiter.body, waiter.size)

    def _is_crowded(self, caller: str) -> bool:
        """Return whether too many wait, the last one included."""
        own = sum(waiter.body.caller == caller for waiter in self._waiting)
        return len(self._waiting) > BODIES_WAITING_MAX or own > BODIES_WAITING_MAX_PER_CALLER

    def _admit(self) -> None:
        """Reserve for the bodies that fit, in the order in which they came.

        Skip a body that waits for its caller's share. Stop at one that waits for the whole budget.
        """
        full: set[str] = set()
        for waiter in list(self._waiting):
            body, size = waiter.body, waiter.size
            if body.caller in full:
                continue
            if not self._fits_share(body, size):
                full.add(body.caller)
                continue
            if not self._has_room(body, size):
                return
            self._count(body, size)
            self._waiting.remove(waiter)
            waiter.admitted.set()

    def _has_room(self, body: BodyReservation, size: int) -> bool:
        return self.held + size - body.size <= self._most and self._fits_share(body, size)

    def _fits_share(self, body: BodyReservation, size: int) -> bool:
        return self._by_caller[body.caller] + size - body.size <= self._most_of_one

    def _count(self, body: BodyReservation, size: int) -> None:
        more = size - body.size
        body.size = size
        self.held += more
        self._by_caller[body.caller] += more
        if not self._by_caller[body.caller]:
            del self._by_caller[body.caller]

    def _refusal(self, body: BodyReservation, size: int) -> BambooError:
        if not self._fits_share(body, size):
            return LimitReached(
                f"Limit reached: {self._most_of_one} bytes of request bodies at a time per caller "
                "(max_body_memory_bytes_per_caller). Send fewer large requests at once.",
                retry_after_seconds=_RETRY_SECONDS,
            )
        return Unavailable(
            f"Limit reached: {self._most} bytes of request bodies at a time for all callers "
            "(max_body_memory_bytes). Retry later.",
            retry_after_seconds=_RETRY_SECONDS,
        )


_RETRY_SECONDS: Final = 5
"""The `Retry-After` of a refusal: the request has waited already, and bodies take seconds."""


def reservation_of(scope: Scope) -> BodyReservation:
    """Return the reservation of this request's body; `free_reservation` frees it."""
    body: BodyReservation | None = scope.get(_RESERVATION)
    if body is None:
        memory: BodyMemory = scope["app"].state.body_memory
        body = scope[_RESERVATION] = BodyReservation(memory, _share_of(scope))
    return body


def free_reservation(scope: Scope) -> None:
    """Free the reservation of a request's body, if it has one."""
    body: BodyReservation | None = scope.pop(_RESERVATION, None)
    if body is not None:
        body.release()


def _share_of(scope: Scope) -> str:
    caller: Caller = scope.get(CALLER, NOBODY)
    if caller.id in {NOBODY.id, LOCAL_CALLER.id}:
        # Only the address tells these callers apart. No caller's id has a space.
        return f"address {network_of(scope['client'][0] if scope.get('client') else '')}"
    return caller.id
