"""The part of `SessionManager` for conversations: sessions, messages, events, runs, streams."""

from collections.abc import AsyncIterator, Collection, Mapping
from functools import partial
from typing import Any, Literal

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.codec import decode
from bamboo_gateway.domain.messages import Message
from bamboo_gateway.domain.positions import After, Position
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.domain.views import RunView, SessionView
from bamboo_gateway.sessions import hiding, ingest, ingest_lines, metadata
from bamboo_gateway.sessions.answers import (
    AgentView,
    Branches,
    BranchSelected,
    ChatTurn,
    Connection,
    EventsAppended,
    InputsTaken,
    MessagesAdded,
    RunCancelled,
    SearchResults,
    SessionCancelled,
)
from bamboo_gateway.sessions.asked_calls import (
    Request,
    message_of_request,
    requests_of_runs,
)
from bamboo_gateway.sessions.branches import list_branches, select
from bamboo_gateway.sessions.changes.page import ChangeCursor, ChangeFilter, ChangesPage
from bamboo_gateway.sessions.changes.stream import (
    ChangesRenderer,
    ChangesRequest,
    ChangeStream,
    open_changes,
)
from bamboo_gateway.sessions.changes.waiting import poll_changes
from bamboo_gateway.sessions.commands import (
    Chat,
    EventPage,
    Idempotency,
    MessagePage,
    NewMessage,
    NewSession,
    Outcome,
    Regenerate,
    RunList,
    RunWait,
    SessionDetail,
    SessionList,
    StreamRequest,
)
from bamboo_gateway.sessions.manager_parts import ManagerParts
from bamboo_gateway.sessions.polling import poll_events
from bamboo_gateway.sessions.queries import (
    find_run,
    message_page,
    message_pages,
    run_cursor,
    run_page,
)
from bamboo_gateway.sessions.run_records import RunRecord, read_record
from bamboo_gateway.sessions.runs.branching import named_message
from bamboo_gateway.sessions.runs.client_ids import ClientIds, KnownIds
from bamboo_gateway.sessions.runs.inputs import Inputs
from bamboo_gateway.sessions.runs.rounds import load_round
from bamboo_gateway.sessions.search import search_results
from bamboo_gateway.sessions.streaming.hub import StreamPlace
from bamboo_gateway.sessions.streaming.joint_opening import Wanted
from bamboo_gateway.sessions.streaming.joint_stream import JointStream
from bamboo_gateway.sessions.streaming.rendering import JointRenderer, Renderer
from bamboo_gateway.sessions.streaming.session_writer import SessionWriter
from bamboo_gateway.sessions.streaming.subscription import Subscription
from bamboo_gateway.sessions.turns import (
    InputRun,
    Turns,
    input_run,
    last_turns,
    run_at,
    run_of_input,
    users_message,
)
from bamboo_gateway.storage.reports import SearchQuery, SessionQuery


class ConversationCommands(ManagerParts):
    """Commands of everyday use."""

    # -- sessions ---------------------------------------------------------------------------

    async def create_session(
        self, caller: Caller, new: NewSession, idem: Idempotency | None = None
    ) -> Outcome[SessionView]:
        """Create a session.

        Raises:
            SessionExists: Its id is taken.
            LimitReached: There are `max_sessions`.
        """

        async def create(session_id: str) -> Outcome[SessionView]:
            return await metadata.create(
                self._context, self._transactions, caller, session_id, new, idem
            )

        if new.id is not None:
            return await create(new.id)
        return await self._maker.under_new_id(caller, idem, create)

    async def get_or_create_session(self, caller: Caller, new: NewSession) -> SessionView:
        """Return the session of that id; create it if there is none."""
        session_id = new.id or self._maker.new_session_id()
        return await metadata.get_or_create(
            self._context, self._transactions, caller, session_id, new
        )

    async def get_session(
        self, caller: Caller, session_id: str, include_messages: bool = False
    ) -> SessionDetail:
        """Return a session; on request with all its messages, read while the caller iterates.

        Raises:
            NotFound: There is no such session, or it is deleted during the iteration.
            SessionExpired: The session has expired.
        """
        head = await self._registry.head(caller, session_id, "read")
        view = metadata.view_of(self._context, head)
        messages = message_pages(self._context.store, head) if include_messages else None
        return SessionDetail(view, metadata.etag_of(head), messages)

    async def list_sessions(self, caller: Caller, query: SessionQuery) -> SessionList[SessionView]:
        """Return a page of the sessions that match, sorted."""
        page = await self._registry.query(caller, query)
        views = [metadata.view_of(self._context, head) for head in page.heads]
        return SessionList(views, page.next_cursor, page.has_more, page.total)

    async def search(self, caller: Caller, query: SearchQuery) -> SearchResults:
        """Return a page of the messages with all terms of the query, the newest first."""
        page = await self._registry.search(caller, query)
        return await search_results(page, query.terms)

    async def update_session(
        self, caller: Caller, session_id: str, patch: dict[str, Any], if_match: str | None = None
    ) -> SessionDetail:
        """Apply a JSON merge patch (RFC 7396).

        Raises:
            PreconditionFailed: `if_match` is not the present ETag.
        """
        await metadata.update(self._transactions, caller, session_id, patch, if_match)
        return await self.get_session(caller, session_id)

    async def delete_session(
        self, caller: Caller, session_id: str, if_match: str | None = None
    ) -> None:
        """Delete a session. Its streams get `goodbye deleted`, its run ends without an event.

        Raises:
            NotFound: There is no such session.
            PreconditionFailed: `if_match` is not the present ETag.
        """

        def is_meant(head: SessionHead) -> bool:
            metadata.check_match(head, if_match)
            return True

        await self._transactions.delete(caller, session_id, is_meant)

    async def close_session(
        self, caller: Caller, session_id: str, idem: Idempotency | None = None
    ) -> Outcome[SessionView]:
        """Make a session read-only.

        Raises:
            RunActive: A run is executing or queued.
        """
        return await metadata.close(self._context, self._transactions, caller, session_id, idem)

    async def reopen_session(
        self,
        caller: Caller,
        session_id: str,
        idem: Idempotency | None = None,
        *,
        ttl_seconds: int | Literal["keep"] | None = "keep",
    ) -> Outcome[SessionView]:
        """Make a closed or expired session writable again.

        Args:
            caller: Who calls.
            session_id: Which session.
            idem: The client's idempotency key.
            ttl_seconds: The new time to live, counted from now. None removes it; `keep` counts the
                present one again.

        Raises:
            NotFound: There is no such session, or it has been cleaned.
            SessionClosed: The session is archived.
        """
        return await metadata.reopen(
            self._context, self._transactions, caller, session_id, idem, ttl_seconds
        )

    # -- messages and events ----------------------------------------------------------------

    async def messages(
        self,
        caller: Caller,
        session_id: str,
        *,
        limit: int = 100,
        before: str | None = None,
        after: str | None = None,
        descending: bool = False,
        branch: str | None = None,
    ) -> MessagePage:
        """Return a page of the messages of a branch's path; without `branch` of the current one.

        Raises:
            NotFound: There is no such session or branch, or `before` or `after` is no message of
                the path.
        """
        read = partial(
            message_page,
            self._context.store,
            limit=limit,
            before=before,
            after=after,
            descending=descending,
            branch=branch,
        )
        return await self._registry.read(caller, session_id, read, "read")

    def agents(self, caller: Caller) -> list[AgentView]:
        """Return the agents that a chat may name, by name. Everybody who may read sees the same."""
        del caller
        return self._agents.views()

    def options_in(self, caller: Caller, agent: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return those of a client's values that are options which it may set for this agent.

        Raises:
            InvalidInput: There is no such agent.
        """
        del caller
        allowed = self._agents[self._agents.named(agent)].allowed
        return {name: value for name, value in given.items() if name in allowed}

    async def branches(self, caller: Caller, session_id: str) -> Branches:
        """Return the branches of a session."""
        read = partial(list_branches, self._context.store)
        return await self._registry.read(caller, session_id, read, "read")

    async def select_branch(
        self, caller: Caller, session_id: str, branch_id: str, idem: Idempotency | None = None
    ) -> Outcome[BranchSelected]:
        """Make a branch the current one (`branches.select`)."""
        return await select(
            self._context,
            self._transactions,
            self._maker,
            caller,
            session_id,
            branch_id,
            idem,
        )

    async def message(self, caller: Caller, session_id: str, message_id: str) -> dict[str, Any]:
        """Return one message, of any branch.

        Raises:
            NotFound: There is no such session or message.
        """

        async def read(head: SessionHead) -> dict[str, Any]:
            record = await named_message(self._context.store, head, message_id)
            message: dict[str, Any] = decode(record.body)["message"]
            return message

        return await self._registry.read(caller, session_id, read, "read")

    async def hide_message(self, caller: Caller, session_id: str, message_id: str) -> None:
        """Take the last message out of the current path (`hiding.hide_message`)."""
        await hiding.hide_message(
            self._context, self._transactions, self._maker, caller, session_id, message_id
        )

    async def known_ids(
        self,
        caller: Caller,
        session_id: str,
        message_ids: Collection[str],
        run_id: str | None = None,
        need: Literal["own", "answer"] = "own",
    ) -> KnownIds:
        """Return which of these ids the session has: protocols send whole conversations again.

        Args:
            caller: Who asks.
            session_id: The session.
            message_ids: The ids of messages.
            run_id: The id of a run.
            need: `answer`: whoever may answer its requests for input may ask too.

        Raises:
            NotFound: There is no such session.
        """
        ids = ClientIds(
            self._context.store, self._external.hold, run_id, tuple(frozenset(message_ids))
        )

        async def look(writer: SessionWriter) -> KnownIds:
            await ids.prepare(writer)
            return ids.known(writer)

        return await self._registry.within(caller, session_id, look, need, place=False)

    async def add_messages(
        self,
        caller: Caller,
        session_id: str,
        messages: list[NewMessage],
        idem: Idempotency | None = None,
    ) -> Outcome[MessagesAdded]:
        """Append messages, all or none, without starting a run.

        Raises:
            MessageExists: The session has a message of an id that the caller names.
            InvalidInput: Two of them have the same id.
            Refused: The open tool calls need other messages, or results have no open call.
        """
        ids = [message.id for message in messages]
        names = ClientIds(self._context.store, self._external.hold, message_ids=ids)
        return await metadata.add_messages(
            self._context,
            self._transactions,
            caller,
            session_id,
            messages,
            self._maker,
            names,
            idem,
        )

    async def events(
        self,
        caller: Caller,
        session_id: str,
        *,
        after: After | None = None,
        limit: int = 100,
        types: frozenset[str] | None = None,
        wait_seconds: float = 0,
        descending: bool = False,
    ) -> EventPage:
        """Return a page of events; with `wait_seconds`, wait for the first event that matches.

        Raises:
            PositionGone: `after` is of another epoch, or beyond the end.
        """
        return await poll_events(
            self._context,
            self._registry,
            caller,
            session_id,
            after=after,
            limit=limit,
            types=types,
            wait_seconds=wait_seconds,
            descending=descending,
        )

    async def log_end(self, caller: Caller, session_id: str) -> Position:
        """Return the position of the last durable event."""
        return (await self._registry.head(caller, session_id, "read")).position

    async def append_events(
        self,
        caller: Caller,
        session_id: str,
        events: list[Any],
        idem: Idempotency | None = None,
    ) -> Outcome[EventsAppended]:
        """Append events that an external program posts, all or none."""
        return await ingest.append_events(
            self._context, self._transactions, self._external, caller, session_id, events, idem
        )

    async def append_event_lines(
        self,
        caller: Caller,
        session_id: str,
        batches: AsyncIterator[list[bytes]],
        idem: Idempotency | None = None,
    ) -> Outcome[EventsAppended]:
        """Append NDJSON as it arrives. A repeat with the key appends only what is missing."""
        return await ingest_lines.append_event_lines(
            self._context, self._transactions, self._external, caller, session_id, batches, idem
        )

    # -- runs -------------------------------------------------------------------------------

    async def chat(
        self, caller: Caller, chat: Chat, idem: Idempotency | None = None
    ) -> Outcome[ChatTurn]:
        """Begin a run that answers messages, or queue it (`ChatService.chat`)."""
        return await self._chats.chat(caller, chat, idem)

    async def answer_inputs(
        self, caller: Caller, session_id: str, inputs: Inputs, idem: Idempotency | None = None
    ) -> Outcome[InputsTaken]:
        """Answer requests for input (`InputService.answer`)."""
        return await self._inputs.answer(caller, session_id, inputs, idem)

    async def open_inputs(self, caller: Caller, session_id: str) -> list[dict[str, Any]]:
        """Return the `input_required` events of the open requests, in order."""

        async def read(head: SessionHead) -> list[dict[str, Any]]:
            found = await load_round(self._context.store, head)
            return [found.asked[one.request_id] for one in head.open_requests]

        return await self._registry.read(caller, session_id, read, "read")

    async def inputs_of_runs(
        self, caller: Caller, session_id: str, run_ids: Collection[str]
    ) -> list[Request]:
        """Return what runs have asked, and what became of it (`asked_calls.requests_of_runs`)."""
        return await self._registry.read(
            caller,
            session_id,
            lambda head: requests_of_runs(self._context.store, head, run_ids),
            "read",
        )

    async def message_of_input(self, caller: Caller, session_id: str, request_id: str) -> str:
        """Return the message with the call that a request is about (`message_of_request`)."""
        return await self._registry.read(
            caller,
            session_id,
            lambda head: message_of_request(self._context.store, head, request_id),
        )

    async def regenerate(
        self,
        caller: Caller,
        session_id: str,
        wanted: Regenerate,
        idem: Idempotency | None = None,
    ) -> Outcome[ChatTurn]:
        """Answer a turn again in a new branch (`ChatService.regenerate`)."""
        return await self._chats.regenerate(caller, session_id, wanted, idem)

    # -- turns ------------------------------------------------------------------------------

    async def turns(
        self, caller: Caller, session_id: str, *, limit: int, before: str | None = None
    ) -> Turns:
        """Return the last turns of the current path, or those before a message (`turns`).

        Raises:
            NotFound: There is no such session, or `before` is no message of it.
        """

        async def read(head: SessionHead) -> Turns:
            seq = None
            if before is not None:
                seq = (await named_message(self._context.store, head, before)).seq
            return await last_turns(self._context.store, head, limit=limit, before=seq)

        return await self._registry.read(caller, session_id, read, "read")

    async def run_of_input(
        self, caller: Caller, session_id: str, message_id: str
    ) -> InputRun | None:
        """Return the run that a message is the input of, if there is one."""
        read = partial(run_of_input, self._context.store, message_id=message_id)
        return await self._registry.read(caller, session_id, read)

    async def run_at(self, caller: Caller, session_id: str, position: Position) -> InputRun | None:
        """Return the run that was executing at a position, whether or not it has ended since."""
        read = partial(run_at, self._context.store, position=position)
        return await self._registry.read(caller, session_id, read, "read")

    async def input_run(self, caller: Caller, session_id: str, run_id: str) -> InputRun:
        """Return where a run begins, and whether it has ended."""
        read = partial(input_run, self._context.store, run_id=run_id)
        return await self._registry.read(caller, session_id, read)

    async def users_message(
        self, caller: Caller, session_id: str, message_id: str, alias: str
    ) -> Message | None:
        """Return the user's message that a client knows by an id (`turns.users_message`)."""
        read = partial(users_message, self._context.store, message_id=message_id, alias=alias)
        return await self._registry.read(caller, session_id, read)

    async def open_run(
        self,
        caller: Caller,
        session_id: str,
        run_id: str | None = None,
        idem: Idempotency | None = None,
    ) -> Outcome[RunView]:
        """Open a run whose events an external program posts (`ExternalRuns.open`)."""
        return await self._external.open(caller, session_id, run_id, idem)

    async def run(self, caller: Caller, session_id: str, run_id: str) -> RunView:
        """Return one run.

        Raises:
            NotFound: There is no such session or run.
        """
        return await self._registry.read(
            caller,
            session_id,
            lambda head: find_run(self._context.store, session_id, head.epoch, run_id),
        )

    async def run_record(self, caller: Caller, session_id: str, run_id: str) -> RunRecord:
        """Return a run with its messages (`run_records.read_record`)."""
        return await self._registry.read(
            caller,
            session_id,
            lambda head: read_record(self._context.store, head, run_id),
            "read",
        )

    async def hide_run(self, caller: Caller, session_id: str, run_id: str) -> None:
        """Hide a run that has ended (`hiding.hide_run`)."""
        await hiding.hide_run(self._context, self._transactions, caller, session_id, run_id)

    async def runs(
        self,
        caller: Caller,
        session_id: str,
        *,
        limit: int = 100,
        cursor: str | None = None,
        descending: bool = False,
    ) -> RunList:
        """Return a page of the runs of a session, in the order of their requests."""
        seq = run_cursor(cursor)

        async def read(head: SessionHead) -> RunList:
            return await run_page(
                self._context.store, head, limit=limit, cursor=seq, descending=descending
            )

        return await self._registry.read(caller, session_id, read)

    async def wait_run(
        self,
        caller: Caller,
        session_id: str,
        run_id: str,
        seconds: float,
        need: Literal["own", "answer"] = "own",
    ) -> RunWait:
        """Wait for a run's end, for at most this many seconds; `answer`: the run of an answer.

        Raises:
            NotFound: There is no such session or run.
        """
        if need == "own":
            await self.run(caller, session_id, run_id)
        return await self._cancellation.wait_run(caller, session_id, run_id, seconds, need)

    async def cancel_run(
        self, caller: Caller, session_id: str, run_id: str, idem: Idempotency | None = None
    ) -> Outcome[RunCancelled]:
        """Cancel a run. Repeats do nothing."""
        work = partial(self._cancellation.cancel_run, caller, session_id, run_id)
        return await self._transactions.once(caller, session_id, idem, work)

    async def cancel_session(
        self, caller: Caller, session_id: str, idem: Idempotency | None = None
    ) -> Outcome[SessionCancelled]:
        """Cancel the active run and all queued ones. A repeat leaves newer runs alone."""
        work = partial(self._cancellation.cancel_session, caller, session_id)
        return await self._transactions.once(caller, session_id, idem, work)

    # -- streams ----------------------------------------------------------------------------

    def reserve_stream(self, caller: Caller) -> StreamPlace:
        """Reserve the place of a stream before other work begins (`StreamHub.reserve`)."""
        return self._hub.reserve(caller)

    async def connect(
        self,
        caller: Caller,
        session_id: str,
        request: StreamRequest,
        renderer: Renderer,
        place: StreamPlace | None = None,
    ) -> Subscription | None:
        """Open a stream. Return None when no event can follow (`StreamHub.connect`)."""
        return await self._hub.connect(caller, session_id, request, renderer, place)

    async def connect_joint(
        self, caller: Caller, wanted: Wanted, renderer: JointRenderer, *, comes_back: bool = False
    ) -> JointStream | None:
        """Open one stream of several sessions (`JointStreams.connect`)."""
        return await self._joint_streams.connect(caller, wanted, renderer, comes_back=comes_back)

    # -- changes ----------------------------------------------------------------------------

    async def changes(
        self,
        caller: Caller,
        wanted: ChangeFilter,
        cursor: ChangeCursor | None,
        limit: int,
        wait_seconds: float,
    ) -> ChangesPage:
        """Return which sessions have changed (`changes.waiting.poll_changes`)."""
        return await poll_changes(
            self._context, self._feed, caller, wanted, cursor, limit, wait_seconds
        )

    async def follow_changes(
        self, caller: Caller, request: ChangesRequest, renderer: ChangesRenderer
    ) -> ChangeStream:
        """Open a stream of changes (`changes.stream.open_changes`)."""
        return await open_changes(self._context, self._feed, self._hub, caller, request, renderer)

    # -- connections ------------------------------------------------------------------------

    async def connections(self, caller: Caller, session_id: str) -> list[Connection]:
        """Return the open streams of a session."""
        return await self._hub.connections(caller, session_id)

    async def disconnect(self, caller: Caller, session_id: str, connection_id: str) -> None:
        """End one stream of a session and no other."""
        await self._hub.disconnect(caller, session_id, connection_id)
