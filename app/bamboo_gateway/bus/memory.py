"""A bus between several gateways in one process, for tests: the fake that all others use.

One contract suite holds it and the bus over Redis to the same behaviour.
"""

import asyncio
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from typing_extensions import override

from bamboo_gateway.bus.base import NOTICE_BYTES_MAX, Bus, Notice, OnMissed, OnNotice, OnSwitch


class Exchange:
    """What the buses of one deployment have in common. It can be switched off and on."""

    def __init__(self) -> None:
        self.buses: list[MemoryBus] = []
        self.is_up = True

    def switch(self, *, up: bool) -> None:
        """Lose all notices from now on, or deliver them again."""
        if self.is_up != up:
            self.is_up = up
            for bus in self.buses:
                bus.switched(up)


class MemoryBus(Bus):
    """One gateway's end of an exchange. Notices arrive in a later turn of the event loop."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._watched: set[str] = set()
        self._noticed: OnNotice = _nothing
        self._missed: OnMissed = _nothing
        self._switched: OnSwitch = _nothing
        self._changed: Callable[[], None] = _nothing
        self._is_open = False

    @property
    @override
    def is_up(self) -> bool:
        return self._is_open and self._exchange.is_up

    @override
    def publish(self, notice: Notice) -> None:
        bodies = notice.bodies
        if bodies and sum(map(len, bodies)) > NOTICE_BYTES_MAX:
            notice = notice._replace(bodies=None)
        if self.is_up:
            for bus in self._exchange.buses:
                if bus is not self:
                    bus._later(bus._arrived, notice)  # noqa: SLF001 - of the same class

    @override
    def watch(self, session_id: str) -> None:
        if session_id not in self._watched:
            self._watched.add(session_id)
            if self.is_up:
                self._later(self._missed, [session_id])

    @override
    def unwatch(self, session_id: str) -> None:
        self._watched.discard(session_id)

    @override
    def when_noticed(self, call: OnNotice) -> None:
        self._noticed = call

    @override
    def when_missed(self, call: OnMissed) -> None:
        self._missed = call

    @override
    def when_switched(self, call: OnSwitch) -> None:
        self._switched = call

    @override
    def when_changed(self, call: Callable[[], None]) -> None:
        self._changed = call

    @override
    def stats(self) -> Mapping[str, Any]:
        return {"bus_up": float(self.is_up)}

    @override
    async def __aenter__(self) -> Self:
        self._is_open = True
        self._exchange.buses.append(self)
        if self._exchange.is_up:
            self.switched(True)
        return self

    @override
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_open = False
        self._exchange.buses.remove(self)

    def switched(self, up: bool) -> None:
        """Tell the gateway that the exchange was switched."""
        self._later(self._switched, up)
        if up and self._watched:
            self._later(self._missed, sorted(self._watched))

    def _arrived(self, notice: Notice) -> None:
        if not self.is_up:
            return
        if notice.session_id in self._watched:
            self._noticed(notice)
        self._changed()

    def _later(self, call: Callable[..., None], *args: object) -> None:
        asyncio.get_running_loop().call_soon(call, *args)


def _nothing(*_: object) -> None:
    """Do nothing: nobody has asked for it."""
