"""Chat: the command behind POST /chat and `regenerate`. It begins a run, or queues one."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.client_tools import check_client_tools
from bamboo_gateway.domain.errors import LimitReached, SessionExists
from bamboo_gateway.domain.events import Draft
from bamboo_gateway.domain.input_requests import calls_of_others, end_round
from bamboo_gateway.domain.messages import Message
from bamboo_gateway.domain.titles import first_message_titles
from bamboo_gateway.domain.tool_order import in_order
from bamboo_gateway.observability.tracing import here
from bamboo_gateway.sessions.access import own
from bamboo_gateway.sessions.answers import ChatTurn
from bamboo_gateway.sessions.commands import Chat, Idempotency, NewSession, Outcome, Regenerate
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.named_files import named_files
from bamboo_gateway.sessions.runs.branching import (
    Branching,
    Resolve,
    behind,
    in_place_of,
    to_answer,
)
from bamboo_gateway.sessions.runs.client_ids import ClientIds
from bamboo_gateway.sessions.runs.external import ExternalRuns
from bamboo_gateway.sessions.runs.factory import Maker, beginning, created_draft
from bamboo_gateway.sessions.runs.scheduler import RunScheduler
from bamboo_gateway.sessions.streaming.session_writer import SessionWriter
from bamboo_gateway.sessions.transaction import Decision, Effect, Transactions


@dataclass(frozen=True, slots=True)
class ChatService:
    """Runs the command of a chat."""

    context: Context
    transactions: Transactions
    maker: Maker
    external: ExternalRuns
    scheduler: RunScheduler

    async def chat(self, caller: Caller, chat: Chat, idem: Idempotency | None) -> Outcome[ChatTurn]:
        """Begin a run that answers the messages, or queue it.

        Raises:
            Forbidden: The chat names another user for a session that would be created.
            NotFound: The session exists, and the caller may not see it.
            InvalidInput: The agent is unknown, an option is not allowed, a tool of the client's
                is none, or two messages have the same id.
            MessageExists: The session has a message of an id that the caller names.
            RunActive: The session is busy and `on_busy` is `reject`.
            Refused: The run id is taken, the open tool calls need other messages, results have
                no open call, or there are `max_branches`.
            LimitReached: `max_queued_runs` wait already, or the user's tokens of the day are spent.
            Draining: The gateway is shutting down.
        """
        chat = replace(chat, session=own(caller, chat.session))
        branching = None
        if chat.edit_message_id is not None:
            branching = self._branching(in_place_of(chat.edit_message_id))
        elif chat.after_message_id is not None:
            branching = self._branching(behind(chat.after_message_id))
        command = _ChatCommand(self, caller, chat, branching)
        run = partial(
            self.transactions.run,
            caller,
            decide=command.decide,
            prepare=command.prepare,
            create=branching is None,
            idem=idem,
        )
        if chat.session.id is not None:
            return await run(chat.session.id)
        return await self.maker.under_new_id(caller, idem, run)

    async def regenerate(
        self, caller: Caller, session_id: str, wanted: Regenerate, idem: Idempotency | None
    ) -> Outcome[ChatTurn]:
        """Begin a run that answers a turn again in a new branch, or queue it.

        Raises:
            NotFound: There is no such session or message.
            InvalidInput: There is nothing to answer, or as `chat`.
            RunActive, Refused, LimitReached, Draining: As `chat`.
        """
        chat = Chat(
            NewSession(session_id),
            [],
            wanted.agent,
            wanted.options,
            wanted.run_id,
            wanted.on_busy,
            client_tools=wanted.client_tools,
        )
        command = _ChatCommand(self, caller, chat, self._branching(to_answer(wanted.message_id)))
        return await self.transactions.run(
            caller, session_id, command.decide, prepare=command.prepare, idem=idem
        )

    def _branching(self, resolve: Resolve) -> Branching:
        branches_max = self.context.settings.max_branches
        return Branching(self.context.store, self.maker, resolve, branches_max)


class _ChatCommand:
    """One chat on its way through a transaction."""

    def __init__(
        self,
        service: ChatService,
        caller: Caller,
        chat: Chat,
        branching: Branching | None = None,
    ) -> None:
        self._service = service
        check_client_tools(chat.client_tools)
        self._asked_branching = self._branching = branching
        self._context = service.context
        self._maker = service.maker
        self._caller = caller
        self._chat = chat
        self._messages = chat.messages
        self._agent = service.scheduler.agents.named(chat.agent)
        self._run_id = chat.run_id or service.maker.run_id()
        self._ids = ClientIds(
            service.context.store,
            service.external.hold,
            chat.run_id,
            [message.id for message in chat.messages],
        )

    async def prepare(self, writer: SessionWriter) -> None:
        """Look up what the client names, and the quotas if the session is new."""
        if writer.head.seq and self._chat.session.id is None:
            raise SessionExists(f"A session {writer.id!r} exists already. Choose another id.")
        quotas = self._context.quotas.stored
        if quotas.limits_creation and not writer.head.seq:
            await quotas.look_up(self._chat.session.user_id)
        self._messages = await named_files(self._context, self._caller, writer, self._chat.messages)
        await self._context.budget.look_up(self._user_of(writer))
        branching = self._asked_branching
        if branching is None:
            await self._ids.prepare(writer)
            return
        while True:
            await branching.prepare(writer)
            await self._ids.prepare(writer)
            if branching.is_fresh(writer):
                return

    def _user_of(self, writer: SessionWriter) -> str | None:
        return writer.head.user_id if writer.head.seq else self._chat.session.user_id

    def decide(self, writer: SessionWriter) -> Decision[ChatTurn]:
        """Decide whether the run begins, waits or is refused."""
        self._service.scheduler.agents[self._agent].check_options(self._chat.options)
        self._ids.check(writer)
        self._context.drain.check()
        head = writer.head
        is_busy = writer.is_busy
        goes_on = head.tip_id is not None and head.tip_id == self._chat.after_message_id
        self._branching = None if goes_on and not is_busy else self._asked_branching
        if self._chat.on_busy == "reject":
            writer.check_not_busy(f"The session is executing the run {writer.active_run_id!r}.")
        position = str(head.position)
        messages = [self._maker.new_message(given) for given in self._messages]
        created = [] if head.seq else [self._session()]
        # A chat instead of an answer. While the run that asks is active, nobody was asked yet. And
        # whoever leaves the tip for a branch closes all that waits there.
        is_instead = head.active is None and (is_busy or self._branching is None)
        closed = end_round(head, "superseded", self._maker.closed_call) if is_instead else []
        wish = None
        if is_busy:
            drafts, effect = self._queue(writer, messages)
            if self._chat.on_busy == "interrupt":
                wish = self._service.scheduler.wish_to_interrupt(writer)
        else:
            drafts, effect = self._begin(writer, messages, position)
        turn: ChatTurn = {
            "session_id": writer.id,
            "run_id": self._run_id,
            "message_ids": [message.id for message in messages] or self._answered(),
            "status": "queued" if is_busy else "running",
            "position": position,
        }
        return Decision([*created, *closed, *drafts], turn, (effect,), wish=wish)

    def _answered(self) -> list[str]:
        """Return the message that a run without input of its own answers."""
        answered = self._branching.from_message_id if self._branching is not None else None
        return [answered] if answered is not None else []

    def _session(self) -> Draft:
        session = self._chat.session
        self._context.quotas.stored.check_sessions(session.user_id)
        return created_draft(session, self._context.settings.default_ttl_seconds)

    def _begin(
        self, writer: SessionWriter, messages: list[Message], position: str
    ) -> tuple[list[Draft], Effect]:
        head = writer.head
        self._context.budget.check(self._user_of(writer))
        self._context.quotas.check_run(self._user_of(writer))
        branch = self._branching.drafts(writer) if self._branching is not None else []
        ordered = in_order(
            [] if branch else calls_of_others(head),
            messages,
            close=self._maker.close_passed_over,
            all_answered=True,
        )
        start = self._service.scheduler.start_of(
            writer,
            self._run_id,
            self._agent,
            self._chat.options,
            here(),
            client_tools=self._chat.client_tools,
        )
        model = self._service.scheduler.agents[self._agent].model_of(self._chat.options)
        answered = next(iter(self._answered()), None)
        drafts = beginning(self._run_id, self._agent, ordered, position, model, answers=answered)
        if head.seq or self._chat.session.title is None:
            drafts += first_message_titles(self._context.settings.titles, head, ordered)
        return [*branch, *drafts], start

    def _queue(self, writer: SessionWriter, messages: list[Message]) -> tuple[list[Draft], Effect]:
        head = writer.head
        if len(head.queue) >= self._context.settings.max_queued_runs:
            raise LimitReached(
                f"Limit reached: {len(head.queue)} queued runs in this session (max_queued_runs). "
                "Wait for a run to end and retry.",
                code="too-many-queued-runs",
                retry_after_seconds=5,
            )
        self._context.budget.check(head.user_id)
        self._context.quotas.check_queue(head.user_id)
        fields: dict[str, Any] = {
            "run_id": self._run_id,
            "agent": self._agent,
            "messages": [message.to_json() for message in messages],
            "options": self._chat.options,
        }
        if self._chat.client_tools:
            fields["client_tools"] = list(self._chat.client_tools)
        if self._branching is not None:
            self._branching.check(writer)
            # What waits attaches to the tip of its time, but this one has a place already.
            fields["branch_from"] = {"message_id": self._branching.from_message_id}
        interrupts = None
        if self._chat.on_busy == "interrupt":
            fields["front"] = True
            interrupts = writer.active_run_id
        queued = self._service.scheduler.start_when_free(writer, interrupts=interrupts)
        return [Draft("run_queued", fields)], queued
