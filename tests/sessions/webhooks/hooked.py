"""A manager with webhooks on a memory store, and a receiver without a network."""

import json
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from typing_extensions import override

from bamboo_gateway.agents.base import Agent
from bamboo_gateway.domain.callers import LOCAL_CALLER, Caller
from bamboo_gateway.domain.errors import BambooError
from bamboo_gateway.domain.events import Complete
from bamboo_gateway.domain.webhook_urls import target_of
from bamboo_gateway.domain.webhooks import WEBHOOK_EVENTS
from bamboo_gateway.sessions.commands import Chat, NewMessage, NewSession
from bamboo_gateway.sessions.manager import SessionManager
from bamboo_gateway.sessions.webhooks.administration import NewWebhook
from bamboo_gateway.sessions.webhooks.courier import Courier
from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.memory import MemoryStore
from bamboo_gateway.storage.reports import ValueChange
from bamboo_gateway.webhooks.base import Attempt, Sender
from tests.support.agents import ScriptedAgent
from tests.support.clocks import FakeClock
from tests.support.gateways import _copy, eventually, quiet, settings_of

ME = LOCAL_CALLER
OK = Attempt(204, None, 1)
URL = "https://hooks.example.com/"


def failed(status: int | None = 500, retry_after: int | None = None) -> Attempt:
    return Attempt(status, "timeout" if status is None else "status", 1, retry_after)


@dataclass
class Sent:
    """A request that a receiver got."""

    url: str
    id: str
    type: str
    data: dict[str, Any]
    timestamp: str

    @property
    def about(self) -> tuple[str, str]:
        """What it tells, in short."""
        return self.type, self.data.get("run_id") or self.data.get("session_id") or ""


class FakeSender(Sender):
    """Answers as the test says; everything is acknowledged at first."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        self.answer: Callable[[Sent], Attempt | Awaitable[Attempt]] = lambda _: OK

    @override
    def check_url(self, url: str) -> None:
        target_of(url, private=False)

    @override
    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Attempt:
        told = json.loads(body)
        one = Sent(url, headers["Webhook-Id"], told["type"], told["data"], told["timestamp"])
        self.sent.append(one)
        answer = self.answer(one)
        return answer if isinstance(answer, Attempt) else await answer

    def by_session(self, sent: Sequence[Sent] | None = None) -> dict[str, list[Sent]]:
        """Return what was told of each session, without repeats."""
        told: dict[str, list[Sent]] = defaultdict(list)
        for one in self.sent if sent is None else sent:
            known = told[one.data["session_id"]]
            if all(one.id != other.id for other in known):
                known.append(one)
        return told


class WatchedStore(MemoryStore):
    """Fails writes of values on command, and remembers its states."""

    failing: BambooError | None = None
    on_write: Callable[[], None] | None = None

    @override
    async def write_values(self, changes: Sequence[ValueChange]) -> None:
        if self.failing is not None:
            raise self.failing
        await super().write_values(changes)
        if self.on_write is not None:
            self.on_write()

    def twin(self) -> "WatchedStore":
        """Return a copy of the store as it is now: what is left when the process dies here."""
        on_write, self.on_write = self.on_write, None
        try:
            twin = _copy(self)
        finally:
            self.on_write = on_write
        assert isinstance(twin, WatchedStore)
        return twin


@dataclass
class Hooked:
    """A running manager and what it stands on."""

    manager: SessionManager
    store: Any
    sender: FakeSender
    agent: ScriptedAgent
    clock: FakeClock
    runs: int = field(default=0)

    @property
    def couriers(self) -> dict[str, Courier]:
        return self.manager._webhooks.couriers

    async def hook(
        self,
        *events: str,
        url: str = URL,
        user_id: str | None = None,
        caller: Caller = ME,
    ) -> str:
        """Create a webhook, of all events unless some are named; return its id."""
        new = NewWebhook(url, events or WEBHOOK_EVENTS, user_id)
        return (await self.manager.create_webhook(caller, new)).answer["id"]

    async def run(
        self,
        session_id: str = "s",
        user_id: str | None = None,
        *end: Any,
        run_id: str | None = None,
    ) -> str:
        """Let a run begin and end; return its id."""
        self.runs += 1
        run_id = run_id or f"r{self.runs:04d}"
        chat = Chat(NewSession(session_id, user_id), [NewMessage("user", "hi")], run_id=run_id)
        await self.manager.chat(ME, chat)
        self.agent.do(run_id, *(end or (Complete(),)))
        waited = await self.manager.wait_run(ME, session_id, run_id, 60)
        assert waited.ended
        return run_id

    def told(self) -> list[tuple[str, str]]:
        return [one.about for one in self.sender.sent]

    async def tells(self, count: int) -> list[tuple[str, str]]:
        """Wait for so many requests; return what they told."""
        await eventually(lambda: len(self.sender.sent) >= count, f"{count} requests: {self.told()}")
        return self.told()

    async def is_idle(self) -> bool:
        """Whether everything was told that is in the store."""
        cursor = self.manager._webhooks._feed._cursor
        assert cursor is not None
        feed, number = await self.store.last_change()
        return (
            (cursor.feed, cursor.number, cursor.phase) == (feed, number, None)
            and not await self.store.values("webhook-due", limit=1)
            and not any(one._in_flight for one in self.couriers.values())
        )

    async def settles(self) -> list[tuple[str, str]]:
        """Wait until everything was told."""
        await eventually(self.is_idle, f"idle: {self.told()}")
        return self.told()

    async def looked(self) -> None:
        """Wait until the feed has looked at everything, and nothing moves."""

        async def has_looked() -> bool:
            cursor = self.manager._webhooks._feed._cursor
            assert cursor is not None
            feed, number = await self.store.last_change()
            return (cursor.feed, cursor.number, cursor.phase) == (feed, number, None)

        await eventually(has_looked)
        await quiet()

    async def pass_time(self, seconds: float) -> None:
        """Let time pass, and what is due begin."""
        await quiet()
        self.clock.advance(seconds)
        for courier in self.couriers.values():
            courier._poke.set()
        await quiet()


@asynccontextmanager
async def hooked(
    store: SessionStore | None = None,
    *,
    clock: FakeClock | None = None,
    agents: Mapping[str, Agent] | None = None,
    **changed: Any,
) -> AsyncIterator[Hooked]:
    """Run a manager with webhooks; with a store given, the one a process before has left."""
    clock = clock or FakeClock()
    store = store or WatchedStore(clock)
    await store.open()
    sender, agent = FakeSender(), ScriptedAgent()
    manager = SessionManager(
        store,
        {"default": agent, **(agents or {})},
        settings_of(**changed),
        clock,
        sender=sender,
        link=lambda session_id: f"https://chat.example.com/{session_id}",
    )
    async with manager:
        yield Hooked(manager, store, sender, agent, clock)
