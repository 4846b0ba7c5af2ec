"""How much memory the bodies of requests take, in all and of each caller.

A body is held as a whole before its route looks at it, and until the request has its answer: as
long as a client takes to send it. So its bytes are counted from its beginning, and who comes when
there is no room waits with nothing read: TCP holds the client back. Nobody waits who holds
something, so that no two wait for each other; and what is held comes at a pace or is cut
(`protocol`), is answered, and makes room.
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

_HELD: Final = "bamboo.held_body"
"""Where the scope keeps what its body takes."""


class HeldBody:
    """What the body of one request takes.

    Attributes:
        caller: Whose share it is of.
        size: How many bytes are counted for it.
    """

    __slots__ = ("_memory", "caller", "size")

    def __init__(self, memory: "BodyMemory", caller: str) -> None:
        self._memory = memory
        self.caller = caller
        self.size = 0

    async def hold(self, size: int) -> None:
        """Makes room for `size` bytes in all, before they are read.

        Waits only while nothing is held. So who knows the size says it at first; a body that turns
        out to be longer when there is no room is refused.

        Raises:
            LimitReached: The caller's share stayed taken.
            Unavailable: All room stayed taken, or too many wait for it.
        """
        if size > BODY_BYTES_FREE and size > self.size:
            await self._memory.grow(self, size)

    def release(self, size: int = 0) -> None:
        """Gives back what is over `size` bytes."""
        if size < self.size:
            self._memory.shrink(self, size if size > BODY_BYTES_FREE else 0)


class _Waiter:
    """A body that has nothing of its room yet."""

    __slots__ = ("admitted", "body", "size")

    def __init__(self, body: HeldBody, size: int) -> None:
        self.body = body
        self.size = size
        self.admitted = anyio.Event()


class BodyMemory:
    """See the module. Used on the event loop alone.

    Attributes:
        held: How many bytes are counted for all bodies together.
    """

    def __init__(self, settings: Settings) -> None:
        # A body of the size that is allowed always finds room when nothing else is held.
        self._most_of_one = max(settings.max_body_memory_bytes_per_caller, settings.max_body_bytes)
        self._most = max(settings.max_body_memory_bytes, self._most_of_one)
        self.held = 0
        self._by_caller = Counter[str]()
        self._waiting: list[_Waiter] = []

    async def grow(self, body: HeldBody, size: int) -> None:
        """See `HeldBody.hold`."""
        # Who holds something came before those who wait.
        if (body.size or not self._waiting) and self._has_room(body, size):
            self._count(body, size)
        elif body.size:
            raise self._refusal(body, size)
        else:
            await self._wait(_Waiter(body, size))

    def shrink(self, body: HeldBody, size: int) -> None:
        """See `HeldBody.release`."""
        self._count(body, size)
        if self._waiting:
            self._admit()

    def measures(self) -> Measures:
        """Gives the families of `observability.metrics` that bodies have."""
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
                # Those behind it may be smaller.
                self._admit()
        if not waiter.admitted.is_set():
            raise self._refusal(waiter.body, waiter.size)

    def _is_crowded(self, caller: str) -> bool:
        """Tells whether more wait than may, the last one included."""
        own = sum(waiter.body.caller == caller for waiter in self._waiting)
        return len(self._waiting) > BODIES_WAITING_MAX or own > BODIES_WAITING_MAX_PER_CALLER

    def _admit(self) -> None:
        """Lets those in who fit, in the order in which they came.

        Who waits for the rest of its caller's share is passed over, and who waits for all is not.
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

    def _has_room(self, body: HeldBody, size: int) -> bool:
        return self.held + size - body.size <= self._most and self._fits_share(body, size)

    def _fits_share(self, body: HeldBody, size: int) -> bool:
        return self._by_caller[body.caller] + size - body.size <= self._most_of_one

    def _count(self, body: HeldBody, size: int) -> None:
        more = size - body.size
        body.size = size
        self.held += more
        self._by_caller[body.caller] += more
        if not self._by_caller[body.caller]:
            del self._by_caller[body.caller]

    def _refusal(self, body: HeldBody, size: int) -> BambooError:
        if not self._fits_share(body, size):
            return LimitReached(
                f"The bodies of this caller's requests at work take {self._most_of_one} bytes "
                "(max_body_memory_bytes_per_caller); send fewer at once, or raise it.",
                retry_after_seconds=_RETRY_SECONDS,
            )
        return Unavailable(
            f"The bodies of all requests at work take {self._most} bytes (max_body_memory_bytes); "
            "try again, or raise it.",
            retry_after_seconds=_RETRY_SECONDS,
        )


_RETRY_SECONDS: Final = 5
"""When to come back: who was refused has waited already, and bodies take seconds."""


def held_body(scope: Scope) -> HeldBody:
    """Gives what the body of this request takes; to be given back with `release_body`."""
    body: HeldBody | None = scope.get(_HELD)
    if body is None:
        memory: BodyMemory = scope["app"].state.body_memory
        body = scope[_HELD] = HeldBody(memory, _share_of(scope))
    return body


def release_body(scope: Scope) -> None:
    """Gives back what the body of a request has taken, if it has."""
    body: HeldBody | None = scope.pop(_HELD, None)
    if body is not None:
        body.release()


def _share_of(scope: Scope) -> str:
    caller: Caller = scope.get(CALLER, NOBODY)
    if caller.id in {NOBODY.id, LOCAL_CALLER.id}:
        # Not told from others by anything else. No caller's id has a space.
        return f"address {network_of(scope['client'][0] if scope.get('client') else '')}"
    return caller.id
