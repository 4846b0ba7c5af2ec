"""The application without HTTP: a manager on a store, and a client that follows a stream."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Self

import anyio
from anyio.lowlevel import checkpoint

from bamboo_gateway.agents.base import Agent
from bamboo_gateway.api.frames import NATIVE
from bamboo_gateway.bus.base import Bus
from bamboo_gateway.domain.callers import LOCAL_CALLER, Caller
from bamboo_gateway.domain.events import Complete
from bamboo_gateway.domain.positions import parse_after, parse_position
from bamboo_gateway.sessions.commands import (
    Chat,
    Idempotency,
    NewMessage,
    NewSession,
    OnBusy,
    StreamRequest,
)
from bamboo_gateway.sessions.erasure import ForgetKeys, no_keys
from bamboo_gateway.sessions.lifecycle.bulk_creation import History, create_whole
from bamboo_gateway.sessions.manager import SessionManager
from bamboo_gateway.sessions.streaming.session_writer import SessionWriter
from bamboo_gateway.sessions.streaming.subscription import Subscription
from bamboo_gateway.settings import Settings
from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.factory import make_store
from tests.support.agents import ScriptedAgent
from tests.support.clocks import FakeClock
from tests.support.frames import Frame, logged, parse_frames
from tests.support.settings import given_settings
from tests.support.stores import FaultyStore

# Patience with a slow machine: it costs nothing where all goes well.
DEADLINE_SECONDS = 60
ME = LOCAL_CALLER
# Rounds of the loop after which everything that can go on without the test has done so: the memory
# store answers within one, and the longest chain of tasks here has fewer than ten.
_ROUNDS = 60


async def eventually(true: Callable[[], Any], what: str = "") -> None:
    """Let others run until something is so; `true` may be a coroutine function."""
    try:
        with anyio.fail_after(DEADLINE_SECONDS):
            while not (await answer if isinstance(answer := true(), Awaitable) else answer):
                await checkpoint()
    except TimeoutError:
        raise AssertionError(f"never came true: {what or true}") from None


async def quiet() -> None:
    """Let others run until nothing moves any more: on the memory store, and but for timers.

    What other threads do is not waited for: a test that needs it waits until it can see it.
    """
    for _ in range(_ROUNDS):
        await checkpoint()


def settings_of(**changed: Any) -> Settings:
    """Return settings for tests: nothing of the environment, small waits."""
    return given_settings(
        **{
            "storage_url": "memory:",
            # Most tests compare whole logs and are about something else; tests of titles set it.
            "titles": "off",
            "drain_timeout_seconds": 0,
            "cancel_timeout_seconds": 30,
            **changed,
        }
    )


class Gateway:
    """A manager and what it stands on, with short words for what tests do all the time."""

    def __init__(
        self,
        manager: SessionManager,
        store: FaultyStore,
        agent: ScriptedAgent,
        clock: FakeClock,
        settings: Settings,
    ) -> None:
        self.manager = manager
        self.store = store
        self.agent = agent
        self.clock = clock
        self.settings = settings
        self.has_crashed = False

    async def chat(
        self,
        session_id: str | None = "s",
        text: str = "hi",
        run_id: str | None = None,
        on_busy: OnBusy = "enqueue",
        key: str | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        """Send a message; return the answer."""
        idem = Idempotency(key, "POST /chat", repr((session_id, text, run_id))) if key else None
        outcome = await self.manager.chat(
            ME,
            Chat(
                NewSession(id=session_id),
                [NewMessage("user", text)],
                run_id=run_id,
                on_busy=on_busy,
                **more,
            ),
            idem,
        )
        return dict(outcome.answer)

    async def connect(self, session_id: str = "s", **request: Any) -> "Reader | None":
        """Open a stream; positions are given as text, as a client sends them."""
        wanted = stream_request(**request)
        connection = await self.manager.connect(ME, session_id, wanted, NATIVE)
        return Reader(connection) if connection is not None else None

    async def reader(self, session_id: str = "s", **request: Any) -> "Reader":
        """Open a stream that has something to show."""
        reader = await self.connect(session_id, **request)
        assert reader is not None
        return reader

    async def create_whole(self, caller: Caller, session_id: str, history: History) -> None:
        """Create a session with a whole history, as a fork or an import does."""

        async def prepared() -> History:
            return history

        manager = self.manager
        await create_whole(
            manager._context, manager._transactions, caller, session_id, prepared, None
        )

    async def log(self, session_id: str = "s") -> list[dict[str, Any]]:
        """Read the whole log by the store's own path, past everything else."""
        head = await self.store.inner.load(session_id)
        if head is None:
            return []
        records = await self.store.inner.read(
            session_id, head.epoch, 0, limit=100_000, max_bytes=1 << 30
        )
        return [json.loads(record.body) for record in records]

    async def types(self, session_id: str = "s") -> list[str]:
        """Return the types of the log's events."""
        return [event["type"] for event in await self.log(session_id)]

    async def messages(self, session_id: str = "s") -> list[dict[str, Any]]:
        """Return all messages as a client gets them, page by page."""
        shown: list[dict[str, Any]] = []
        page = await self.manager.messages(ME, session_id, limit=1000)
        while True:
            shown += [json.loads(message) for message in page.messages]
            if page.next_cursor is None:
                return shown
            page = await self.manager.messages(ME, session_id, limit=1000, after=page.next_cursor)

    async def ended(self, run_id: str, session_id: str = "s") -> dict[str, Any]:
        """Wait for a run's end; return the run."""
        with anyio.fail_after(DEADLINE_SECONDS):
            waited = await self.manager.wait_run(ME, session_id, run_id, 2 * DEADLINE_SECONDS)
        assert waited.ended
        return {**waited.run}

    async def finish_runs(self, session_id: str = "s") -> None:
        """Let every run complete, those that wait as well."""
        finished: set[str] = set()
        while begun := {
            event["run_id"]
            for event in await self.log(session_id)
            if event["type"] == "run_start" and event["run_id"] not in finished
        }:
            for run_id in begun:
                self.agent.do(run_id, Complete())
            finished |= begun
            await quiet()

    def live(self, session_id: str = "s") -> SessionWriter:
        """Return the session as it is in memory."""
        live = self.manager._registry.get(session_id)
        assert live is not None, "not in memory"
        return live

    def leftovers(self) -> list[str]:
        """Return what is still attached to sessions that should be at rest."""
        return [
            f"{live.id}: users={live.users} run={live.run} starting={live.starting} "
            f"run_waiters={list(live._run_waiters)} gate={live._open_gate}"
            for live in self.manager._registry.sessions
            if not live.is_idle
        ] + [
            f"{channel.id}: connections={list(channel.connections)} "
            f"change_waiters={len(channel._change_waiters)}"
            for channel in self.manager._channels.all()
        ]


def stream_request(
    after: str | None = None, last_event_id: str | None = None, **others: Any
) -> StreamRequest:
    """Read the positions that a client sends as text."""
    return StreamRequest(
        after=parse_after(after) if after is not None else None,
        last_event_id=(parse_position(last_event_id) or "malformed") if last_event_id else None,
        **others,
    )


class Reader:
    """A client that follows one stream and remembers what it was shown."""

    def __init__(self, connection: Subscription) -> None:
        self.connection = connection
        self.bytes = b""
        self.ended = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.connection.aclose()

    async def take(self) -> bytes | None:
        """Take the next chunk, under a deadline."""
        with anyio.fail_after(DEADLINE_SECONDS):
            chunk = await self.connection.next()
        if chunk is None:
            self.ended = True
        else:
            self.bytes += chunk
        return chunk

    async def take_until(self, *types: str) -> list[Frame]:
        """Take until a frame of one of these types has come; return all frames."""
        while not any(frame.type in types for frame in self.frames):
            assert await self.take() is not None, f"ended without {types}: {self.frames}"
        return self.frames

    async def take_all(self) -> list[Frame]:
        """Take until the stream ends by itself."""
        while await self.take() is not None:
            pass
        return self.frames

    async def take_what_is_there(self) -> list[Frame]:
        """Take until nothing comes without something new happening."""
        while True:
            chunks: list[bytes | None] = []
            async with anyio.create_task_group() as tasks:

                async def one(chunks: list[bytes | None] = chunks) -> None:
                    chunks.append(await self.connection.next())

                tasks.start_soon(one)
                await quiet()
                tasks.cancel_scope.cancel()
            if not chunks:
                return self.frames
            if chunks[0] is None:
                self.ended = True
                return self.frames
            self.bytes += chunks[0]

    @property
    def frames(self) -> list[Frame]:
        return parse_frames(self.bytes)[0]

    @property
    def types(self) -> list[str]:
        return [frame.type for frame in self.frames]

    @property
    def events(self) -> list[Frame]:
        """The frames that stand in the log."""
        return logged(self.frames)

    @property
    def last_id(self) -> str:
        """What a client would send as `Last-Event-ID`."""
        ids = [frame.id for frame in self.frames if frame.id is not None]
        return ids[-1]

    @property
    def goodbye(self) -> dict[str, Any] | None:
        last = self.frames[-1] if self.frames else None
        return last.data if last is not None and last.type == "goodbye" else None

    def close(self) -> None:
        """Leave."""
        self.connection.aclose()


@asynccontextmanager
async def gateway(
    store: SessionStore | None = None,
    *,
    clock: FakeClock | None = None,
    agents: Mapping[str, Agent] | None = None,
    forget_keys: ForgetKeys = no_keys,
    bus: Bus | None = None,
    **changed: Any,
) -> AsyncIterator[Gateway]:
    """Run a manager; with a store given, the one a process before has left behind."""
    clock = clock or FakeClock()
    settings = settings_of(**changed)
    agent = ScriptedAgent()
    if store is None:
        store = make_store(settings, clock)
        await store.open()
    faulty = store if isinstance(store, FaultyStore) else FaultyStore(store)
    manager = SessionManager(
        faulty,
        {"default": agent, **(agents or {})},
        settings,
        clock,
        forget_keys=forget_keys,
        bus=bus,
    )
    async with manager:
        running = Gateway(manager, faulty, agent, clock, settings)
        yield running
        if running.has_crashed:
            # Nobody looks at this manager any more, and what is held would hold up its end.
            faulty.release_appends()


async def crash(gate: Gateway) -> SessionStore:
    """Return what is left when the process dies now: the store as it is durable at this moment.

    The old manager goes on with a store that takes nothing any more.
    """
    left = _copy(gate.store.inner)
    await left.open()
    gate.store.hold_appends()
    gate.has_crashed = True
    return left


def _copy(store: SessionStore) -> SessionStore:
    import copy

    loop = store.__dict__.pop("_loop", None)
    waiting = store.__dict__.pop("_waiting", None)
    try:
        twin = copy.deepcopy(store)
    finally:
        store.__dict__["_loop"] = loop
        store.__dict__["_waiting"] = waiting
    twin.__dict__["_loop"] = None
    twin.__dict__["_waiting"] = type(waiting)()
    return twin
