"""A store in which the nth call fails, whichever it is, before or after it has done its work."""

import asyncio
from abc import update_abstractmethods
from collections.abc import Sequence
from typing import Any

from typing_extensions import override

from bamboo_gateway.domain.errors import StorageFailed
from bamboo_gateway.storage.base import Done, SessionCreation, SessionStore
from bamboo_gateway.storage.commits import Commit, Event, Note

_PLAIN = {
    "next_epoch",
    "count",
    "touch",
    "unfinished",
    "stats",
    "usage",
    "size",
    "unpacked_archives",
    "delta_bytes",
    "holding_deltas",
}


class NthFault(SessionStore):
    """Passes everything on; `arm(n)` has the nth call from then on fail before it does anything."""

    def __init__(self, inner: SessionStore) -> None:
        self.inner = inner
        self.left: int | None = None
        self.fired = False

    def arm(self, nth: int | None) -> None:
        self.left = nth
        self.fired = False

    def strike(self) -> bool:
        if self.left is None:
            return False
        self.left -= 1
        if self.left == 0:
            self.left, self.fired = None, True
            return True
        return False

    @override
    def append(self, commit: Commit, done: Done) -> None:
        if self.strike():
            asyncio.get_running_loop().call_soon(done, StorageFailed("Broken on purpose."))
        else:
            self.inner.append(commit, done)

    @override
    def creation(self, session_id: str, epoch: int) -> SessionCreation:
        return _Creation(self, self.inner.creation(session_id, epoch))

    @override
    def extension(self, session_id: str, epoch: int, after: int) -> SessionCreation:
        return _Creation(self, self.inner.extension(session_id, epoch, after))


class _Creation(SessionCreation):
    def __init__(self, faults: NthFault, inner: SessionCreation) -> None:
        self.faults = faults
        self.inner = inner

    @override
    async def write(self, events: Sequence[Event], notes: Sequence[Note] = ()) -> None:
        if self.faults.strike():
            raise StorageFailed("Broken on purpose.")
        await self.inner.write(events, notes)

    @override
    async def publish(self, head: Any) -> None:
        if self.faults.strike():
            raise StorageFailed("Broken on purpose.")
        await self.inner.publish(head)

    @override
    async def discard(self) -> None:
        await self.inner.discard()


def _passing(name: str) -> Any:
    if name in _PLAIN:

        def pass_on(self: NthFault, *args: Any, **named: Any) -> Any:
            return getattr(self.inner, name)(*args, **named)

        return pass_on

    async def call(self: NthFault, *args: Any, **named: Any) -> Any:
        if self.strike():
            raise StorageFailed("Broken on purpose.")
        return await getattr(self.inner, name)(*args, **named)

    return call


for _name in NthFault.__abstractmethods__:
    setattr(NthFault, _name, _passing(_name))
update_abstractmethods(NthFault)  # type: ignore[type-abstract]
