"""The gateway inside your own program: sessions, runs and streams without HTTP.

    from bamboo_gateway.embedded import open_gateway

    async with open_gateway("~/.bamboo/sessions", default_ttl_seconds=86400) as gateway:
        await gateway.create_session("session-001", user_id="user-123", title="My Chat")
        await gateway.add_message("session-001", "Hello!")

`open_gateway` opens the store, makes the agents and the `SessionManager`, and closes all of it.
It yields an `EmbeddedGateway`. Its methods are the commands of the manager: the caller is given
once, messages may be plain strings, and answers are the JSON objects of the HTTP API, decoded. Its
`manager` has all other commands.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, assert_never

from typing_extensions import override

from bamboo_gateway.agents.base import Agent
from bamboo_gateway.agents.factory import make_agent
from bamboo_gateway.api.urls import session_answer
from bamboo_gateway.bus.factory import make_bus
from bamboo_gateway.domain.callers import ALL_RIGHTS, LOCAL_CALLER, Caller
from bamboo_gateway.domain.clock import Clock, SystemClock
from bamboo_gateway.domain.codec import decode, encode
from bamboo_gateway.domain.positions import parse_after
from bamboo_gateway.domain.sessions import SessionType
from bamboo_gateway.domain.views import SessionView
from bamboo_gateway.exporters.target import ExportDirectory
from bamboo_gateway.observability.logs import log_as_a_library
from bamboo_gateway.sessions.answers import (
    ArchivedSession,
    BulkArchived,
    ChatTurn,
    CleanupStats,
    EventsAppended,
    ExtensionData,
    Forked,
    Imported,
    InputsTaken,
    Merged,
    Report,
    Statistics,
    Summary,
    Tree,
)
from bamboo_gateway.sessions.commands import (
    Chat,
    NewMessage,
    NewSession,
    Regenerate,
    SessionList,
    SessionQuery,
    StreamRequest,
)
from bamboo_gateway.sessions.lifecycle.export import ExportOptions
from bamboo_gateway.sessions.lifecycle.fork import Fork
from bamboo_gateway.sessions.lifecycle.merge_plan import Merge
from bamboo_gateway.sessions.manager import SessionManager
from bamboo_gateway.sessions.runs.inputs import Inputs
from bamboo_gateway.sessions.streaming.rendering import (
    CaughtUp,
    Control,
    Goodbye,
    Heartbeat,
    Open,
    Ping,
    Renderer,
    Reset,
)
from bamboo_gateway.sessions.streaming.subscription import Subscription
from bamboo_gateway.settings import load_settings
from bamboo_gateway.storage.base import deployment_of
from bamboo_gateway.storage.factory import make_store

JsonObject = dict[str, Any]
ExportFormat = Literal["markdown", "json", "yaml"]

_PAGE = 1000
"""Messages that one read takes; a history is read page by page."""


@asynccontextmanager
async def open_gateway(
    data_dir: str | Path | None = None,
    *,
    agents: Mapping[str, Agent | str] | None = None,
    config: Path | None = None,
    clock: Clock | None = None,
    **settings: Any,
) -> AsyncIterator["EmbeddedGateway"]:
    """Open a gateway in this process, and close it again, however the block ends.

    Entering recovers the runs that an earlier process left open. Leaving lets runs end within
    `drain_timeout_seconds` and closes the store; when the block raises, runs are interrupted. The
    gateway's log goes to `logging`, unless the program has configured structlog.

    Args:
        data_dir: Where sessions are kept; as in the settings, `~/.bamboo/sessions` by default.
        agents: Who answers, by name: an `Agent`, or a URL as in the settings.
        config: A TOML file with settings.
        clock: Where the time comes from; the system's by default.
        **settings: Any settings by their names, as in `default_ttl_seconds=86400` or
            `storage_url="memory:"`. They win over `BAMBOO_…` variables, and those over `config`.

    Yields:
        The gateway, for the operator: it sees every session. See `EmbeddedGateway.for_user`.

    Raises:
        SettingsError: A setting is wrong.
        StoreBusy, StoreUnusable: The data directory cannot be opened.
        BusUnusable: `bus_url` cannot be used.
        AgentConfigError: An agent's URL cannot be used.
    """
    log_as_a_library()
    wanted = load_settings(config, data_dir=data_dir, **settings)
    clock = clock or SystemClock()
    session_of = partial(session_answer, prefix=wanted.root_path)
    given: Mapping[str, Agent | str] = wanted.agents if agents is None else agents
    async with AsyncExitStack() as stack:
        made: dict[str, Agent] = {}
        for name, agent in given.items():
            if isinstance(agent, str):
                made[name] = make_agent(name, agent, wanted, session_of)
                stack.push_async_callback(made[name].aclose)
            else:
                made[name] = agent  # its owner closes it
        store = make_store(wanted, clock)
        stack.push_async_callback(store.aclose)
        await store.open()
        bus = make_bus(wanted, clock, partial(deployment_of, store))
        if bus is not None:
            await stack.enter_async_context(bus)
        manager = await stack.enter_async_context(
            SessionManager(store, made, wanted, clock, bus=bus)
        )
        yield EmbeddedGateway(manager)


class EmbeddedGateway:
    """Sessions for a program in the same process.

    Every verb raises the errors of `bamboo_gateway.domain.errors`, such as `NotFound` and
    `SessionExpired`.

    Args:
        manager: The manager, entered.
        caller: The caller of every command.

    Attributes:
        manager: The manager itself.
    """

    def __init__(self, manager: SessionManager, caller: Caller = LOCAL_CALLER) -> None:
        self.manager = manager
        self._caller = caller

    def for_user(self, user_id: str) -> "EmbeddedGateway":
        """Return the same gateway for one user, who sees only the user's own sessions."""
        return EmbeddedGateway(self.manager, Caller(f"user:{user_id}", user_id, ALL_RIGHTS))

    # -- sessions ---------------------------------------------------------------------------

    async def create_session(
        self,
        session_id: str | None = None,
        *,
        user_id: str | None = None,
        title: str | None = None,
        working_dir: str | None = None,
        session_type: SessionType = "user",
        metadata: JsonObject | None = None,
        ttl_seconds: int | None = None,
    ) -> SessionView:
        """Create a session. The gateway makes an id when none is given.

        Raises:
            SessionExists: The id is taken.
        """
        new = NewSession(
            session_id, user_id, title, session_type, working_dir, metadata or {}, {}, ttl_seconds
        )
        return (await self.manager.create_session(self._caller, new)).answer

    async def get_or_create_session(
        self, session_id: str | None = None, user_id: str | None = None
    ) -> SessionView:
        """Return the session with this id; create it when there is none."""
        new = NewSession(session_id, user_id)
        return await self.manager.get_or_create_session(self._caller, new)

    async def get_session(self, session_id: str, include_messages: bool = False) -> JsonObject:
        """Return a session; with `include_messages` also its `messages`."""
        found = await self.manager.get_session(self._caller, session_id)
        session: JsonObject = {**found.session}
        if include_messages:
            session["messages"] = await self.get_session_history(session_id)
        return session

    async def list_sessions(self, **filters: Any) -> SessionList[SessionView]:
        """Return a page of sessions; `filters` are the members of `SessionQuery`."""
        return await self.manager.list_sessions(self._caller, SessionQuery(**filters))

    async def update_session(self, session_id: str, **changes: Any) -> SessionView:
        """Change `title`, `working_dir`, `metadata`, `ttl_seconds` … as a JSON merge patch does."""
        return (await self.manager.update_session(self._caller, session_id, changes)).session

    async def close_session(self, session_id: str) -> SessionView:
        """Make a session read-only."""
        return (await self.manager.close_session(self._caller, session_id)).answer

    async def reopen_session(
        self, session_id: str, ttl_seconds: int | Literal["keep"] | None = "keep"
    ) -> SessionView:
        """Make a closed or expired session writable again."""
        outcome = await self.manager.reopen_session(
            self._caller, session_id, ttl_seconds=ttl_seconds
        )
        return outcome.answer

    async def delete_session(self, session_id: str) -> None:
        """Delete a session with everything in it."""
        await self.manager.delete_session(self._caller, session_id)

    # -- messages, runs, events -------------------------------------------------------------

    async def add_message(self, session_id: str, message: str | NewMessage) -> JsonObject:
        """Append a message and start no run. A plain string becomes a user message."""
        added = await self.manager.add_messages(self._caller, session_id, [_message(message)])
        return added.answer["messages"][0]

    async def get_session_history(self, session_id: str) -> list[JsonObject]:
        """Return all messages of a session, oldest first."""
        messages: list[JsonObject] = []
        after = None
        while True:
            page = await self.manager.messages(self._caller, session_id, limit=_PAGE, after=after)
            messages += (decode(message) for message in page.messages)
            after = page.next_cursor
            if after is None:
                return messages

    async def chat(
        self,
        session_id: str | None,
        message: str | NewMessage,
        *,
        user_id: str | None = None,
        agent: str | None = None,
        options: JsonObject | None = None,
        wait_seconds: float = 0,
    ) -> JsonObject:
        """Append a message and start a run for it. Create the session when there is none.

        Args:
            session_id: The session; None: a new one.
            message: What the user says.
            user_id: The owner of the session, if the session is created.
            agent: The name of the agent that answers; None: the agent `default`.
            options: Options for the agent: those that it allows.
            wait_seconds: How long to wait for the end of the run.

        Returns:
            `session_id`, `run_id`, `position` (just before the turn's first event) and `status`;
            once the run has ended also `message`, the final one.
        """
        new = NewSession(session_id, user_id)
        wanted = Chat(new, [_message(message)], agent, options or {})
        turn: JsonObject = {**(await self.manager.chat(self._caller, wanted)).answer}
        if wait_seconds <= 0:
            return turn
        waited = await self.manager.wait_run(
            self._caller, turn["session_id"], turn["run_id"], wait_seconds
        )
        run = waited.run
        ended = {"usage": run["usage"], "error": run["error"], "message": waited.message}
        return {**turn, "status": run["status"], **(ended if waited.ended else {})}

    async def open_inputs(self, session_id: str) -> list[JsonObject]:
        """Return what agents ask people in a session: the `input_required` events, in order."""
        return await self.manager.open_inputs(self._caller, session_id)

    async def answer_inputs(self, session_id: str, answers: JsonObject) -> InputsTaken:
        """Answer what agents ask, each by its `request_id`; the last answer starts a run."""
        given = Inputs(answers)
        return (await self.manager.answer_inputs(self._caller, session_id, given)).answer

    async def regenerate(self, session_id: str, message_id: str | None = None) -> ChatTurn:
        """Have a message answered again, in a new branch; None: the last one."""
        wanted = Regenerate(message_id)
        return (await self.manager.regenerate(self._caller, session_id, wanted)).answer

    async def append_event(self, session_id: str, event: JsonObject) -> EventsAppended:
        """Append a `custom` event, or an event of an open external run."""
        return (await self.manager.append_events(self._caller, session_id, [event])).answer

    async def connect_session(
        self, session_id: str, connection_id: str | None = None, *, after: str | None = None
    ) -> "EventStream":
        """Open a stream of the events after a position; None: of those that follow from now on.

        A later stream under the same `connection_id` replaces this one.
        """
        begin = None if after is None else parse_after(after)
        wanted = StreamRequest(after=begin, connection_id=connection_id)
        return EventStream(await self.manager.connect(self._caller, session_id, wanted, _LINES))

    async def reconnect_session(self, session_id: str, connection_id: str) -> "EventStream":
        """Open a stream that continues where the stream called `connection_id` was lost."""
        wanted = StreamRequest(connection_id=connection_id, reconnect=True)
        return EventStream(await self.manager.connect(self._caller, session_id, wanted, _LINES))

    async def disconnect_session(self, session_id: str, connection_id: str) -> None:
        """End one stream; the run goes on."""
        await self.manager.disconnect(self._caller, session_id, connection_id)

    # -- archive, export, branches ----------------------------------------------------------

    async def archive_session(self, session_id: str) -> ArchivedSession:
        """Take a session out of the lists, read-only and compressed."""
        return (await self.manager.archive(self._caller, session_id)).answer

    async def bulk_archive_sessions(self, session_ids: list[str]) -> BulkArchived:
        """Archive several sessions, one after the other; return `archived` and `failed`."""
        return (await self.manager.archive_each(self._caller, session_ids)).answer

    async def restore_archived_session(self, session_id: str) -> SessionView:
        """Restore an archived session, with everything it had."""
        return (await self.manager.restore(self._caller, session_id)).answer

    async def list_archived_sessions(self, **filters: Any) -> SessionList[ArchivedSession]:
        """Return a page of archived sessions; `filters` are the members of `SessionQuery`."""
        return await self.manager.list_archived(self._caller, SessionQuery(**filters))

    async def export_session(
        self,
        session_id: str,
        format: ExportFormat = "markdown",  # noqa: A002 - the word of the HTTP API
        *,
        include_metadata: bool = True,
        include_tool_calls: bool = True,
    ) -> str:
        """Return a session as a document."""
        options = ExportOptions(format, include_metadata, include_tool_calls)
        document = await self.manager.export(self._caller, session_id, options)
        async with aclosing(document.chunks) as chunks:
            return b"".join([chunk async for chunk in chunks]).decode()

    async def export_session_to_file(
        self,
        session_id: str,
        path: str | Path,
        format: ExportFormat = "markdown",  # noqa: A002 - the word of the HTTP API
        *,
        include_metadata: bool = True,
        include_tool_calls: bool = True,
    ) -> int:
        """Write a session to a file, whole or not at all; return the number of bytes.

        The path may be anywhere: `export_dir` limits clients on a network and not this program.
        """
        options = ExportOptions(format, include_metadata, include_tool_calls)
        document = await self.manager.export(self._caller, session_id, options)
        target = Path(path)
        async with aclosing(document.chunks) as chunks:
            return await ExportDirectory(target.parent).write(target.name, chunks)

    async def import_session(self, document: str | bytes, *, keep_id: bool = False) -> Imported:
        """Create a session from an exported document."""
        data = document.encode() if isinstance(document, str) else document
        made = await self.manager.import_document(self._caller, data, keep_id=keep_id)
        return made.answer

    async def fork_session(
        self,
        session_id: str,
        *,
        from_message_index: int | None = None,
        new_name: str | None = None,
        new_id: str | None = None,
        metadata_strategy: Literal["inherit", "reset"] = "inherit",
    ) -> Forked:
        """Create a session with the messages of another one, up to and including one of them."""
        wanted = Fork(
            message_index=from_message_index,
            new_name=new_name,
            new_id=new_id,
            metadata_strategy=metadata_strategy,
        )
        return (await self.manager.fork(self._caller, session_id, wanted)).answer

    async def merge_sessions(
        self,
        source_id: str,
        target_id: str,
        *,
        strategy: Literal["append", "interleave", "replace"] = "append",
        metadata_strategy: Literal["target", "source", "merge"] = "target",
    ) -> Merged:
        """Merge one session's messages into another; return the target."""
        wanted = Merge(source_id, strategy, metadata_strategy)
        return (await self.manager.merge(self._caller, target_id, wanted)).answer

    async def get_session_branch_tree(self, session_id: str) -> Tree:
        """Return the whole tree of forks that a session belongs to."""
        return await self.manager.tree(self._caller, session_id)

    # -- resume, statistics, cleanup --------------------------------------------------------

    async def build_resume_message(self, session_id: str) -> JsonObject:
        """Return the message that carries a session into a new context."""
        pieces = await self.manager.resume(self._caller, session_id)
        async with aclosing(pieces) as chunks:
            whole = b"".join([chunk async for chunk in chunks])
        message: JsonObject = decode(whole)["message"]
        return message

    async def save_summary(
        self, session_id: str, summary: str, turn_count: int | None = None
    ) -> Summary:
        """Save a summary of the session so far."""
        return (
            await self.manager.save_summary(self._caller, session_id, summary, turn_count)
        ).answer

    async def load_summary(self, session_id: str) -> Summary:
        """Return the present summary."""
        return await self.manager.summary(self._caller, session_id)

    async def calculate_statistics(self, session_id: str) -> Statistics:
        """Return a session's statistics."""
        return await self.manager.statistics(self._caller, session_id)

    async def generate_report(self, session_id: str) -> Report:
        """Return a session's report for people."""
        return await self.manager.report(self._caller, session_id)

    async def get_extension_data(self, session_id: str) -> ExtensionData:
        """Return a session's extension data."""
        return await self.manager.extensions(self._caller, session_id)

    async def cleanup_expired_data(self, *, dry_run: bool = False) -> CleanupStats:
        """Delete sessions whose retention has passed. The gateway also does this by itself."""
        return await self.manager.clean(self._caller, dry_run=dry_run)

    async def force_cleanup(self, before: datetime, *, dry_run: bool = False) -> CleanupStats:
        """Delete all sessions without activity since `before`, whatever their retention."""
        before_ms = round(before.timestamp() * 1000)
        return await self.manager.clean(self._caller, before_ms=before_ms, dry_run=dry_run)


class EventStream:
    """An async iterator of a session's events, decoded.

    It ends after a `goodbye`, which has the reason. Close it, or use it in an `async with`.

    Args:
        subscription: The subscription to read; None: the stream is empty.
    """

    def __init__(self, subscription: Subscription | None) -> None:
        self._subscription = subscription
        self._events: list[JsonObject] = []

    @property
    def connection_id(self) -> str | None:
        """The id to give to `reconnect_session`."""
        return None if self._subscription is None else self._subscription.id

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> JsonObject:
        while not self._events:
            lines = await self._subscription.next() if self._subscription is not None else None
            if lines is None:
                raise StopAsyncIteration
            self._events = [decode(line) for line in lines.splitlines()]
        return self._events.pop(0)

    def close(self) -> None:
        """End the stream; the run goes on."""
        if self._subscription is not None:
            self._subscription.aclose()


class _Lines(Renderer):
    """Renders a stream as JSON lines: events as they are stored, `reset` and `goodbye`."""

    @override
    def event(self, epoch: int, seq: int, body: bytes, /) -> bytes:
        return body + b"\n"

    @override
    def control(self, shown: Control, /) -> bytes:
        line: JsonObject
        match shown:
            case Reset(position, reason):
                line = {"type": "reset", "reason": reason, "position": str(position)}
            case Goodbye(reason, retry):
                line = {"type": "goodbye", "reason": reason, "retry": retry}
            case Open() | CaughtUp() | Heartbeat() | Ping():
                return b""  # only clients on a network need these
            case _:
                assert_never(shown)
        return encode(line) + b"\n"


_LINES = _Lines()


def _message(message: str | NewMessage) -> NewMessage:
    return NewMessage("user", message) if isinstance(message, str) else message
