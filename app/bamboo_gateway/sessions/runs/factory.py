"""Makes ids, messages, and the events that sessions and runs begin with."""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from itertools import count
from typing import Any

from typing_extensions import override

from bamboo_gateway.agents.base import Agent
from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.clock import format_ms
from bamboo_gateway.domain.codec import decode
from bamboo_gateway.domain.errors import (
    InvalidInput,
    SessionClosed,
    SessionExists,
    SessionExpired,
)
from bamboo_gateway.domain.events import TERMINAL_TYPES, Draft
from bamboo_gateway.domain.ids import derived_session_id
from bamboo_gateway.domain.limits import PAGE_BYTES_MAX
from bamboo_gateway.domain.message_assembler import MessageAssembler, message_draft
from bamboo_gateway.domain.messages import Message
from bamboo_gateway.domain.sessions import ActiveRun
from bamboo_gateway.domain.tool_order import UNANSWERED
from bamboo_gateway.sessions.answers import AgentView
from bamboo_gateway.sessions.commands import AnswerT, Idempotency, NewMessage, NewSession, Outcome
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.streaming.session_writer import SessionWriter
from bamboo_gateway.storage.base import SessionStore

EXTERNAL = "external"
"""The agent of runs whose events an external program posts."""


class Maker:
    """Makes ids, messages and assemblers, all with the same clock and the same source of ids."""

    def __init__(self, context: Context) -> None:
        self._ids = context.ids
        self._clock = context.clock
        self._settings = context.settings

    def run_id(self) -> str:
        """Make the id of a run."""
        return self._ids.make("run_", self._clock.now_ms())

    def branch_id(self) -> str:
        """Make the id of a branch."""
        return self._ids.make("branch_", self._clock.now_ms())

    def message_id(self) -> str:
        """Make the id of a message."""
        return self._ids.make("msg_", self._clock.now_ms())

    def share_id(self) -> str:
        """Make the id of a share."""
        return self._ids.make("share_", self._clock.now_ms())

    def new_session_id(self) -> str:
        """Make an id that no session has."""
        return self._ids.make("s-", self._clock.now_ms())

    async def under_new_id(
        self,
        caller: Caller,
        idem: Idempotency | None,
        make: Callable[[str], Awaitable[Outcome[AnswerT]]],
    ) -> Outcome[AnswerT]:
        """Make a session under a new id. With a key, each repeat gets the same id.

        A key is forgotten after a day, and its session is not. The key then means a new session,
        with another derived id.
        """
        if idem is None:
            return await make(self.new_session_id())
        for again in count():
            more = (str(again),) if again else ()
            try:
                return await make(derived_session_id(caller.id, idem.route, idem.key, *more))
            except (SessionExists, SessionClosed, SessionExpired):
                continue
        raise AssertionError  # `count` never ends

    def new_message(self, given: NewMessage) -> Message:
        """Make a message of what a client sent, with its id and time."""
        now_ms = self._clock.now_ms()
        return Message(
            id=given.id or self._ids.make("msg_", now_ms),
            role=given.role,
            content=given.content,
            created_at=format_ms(now_ms),
            tool_calls=given.tool_calls,
            tool_call_id=given.tool_call_id,
            usage=given.usage,
            model=given.model,
            metadata=given.metadata,
        )

    @property
    def close_passed_over(self) -> Callable[[str], Message] | None:
        """The function that closes a tool call that a client passes over; None: it is refused."""
        may_close = self._settings.on_open_tool_calls == "close"
        return self.unanswered if may_close else None

    def unanswered(self, call_id: str) -> Message:
        """Make the message that takes the place of a tool call's missing result."""
        return self.closed_call(call_id, UNANSWERED)

    def closed_call(self, call_id: str, words: str) -> Message:
        """Make the message that takes the place of a call's result, which nobody gives any more."""
        new = NewMessage("tool", words, tool_call_id=call_id, metadata={"closed": True})
        return self.new_message(new)

    def assembler(self, run_id: str, model: str | None = None) -> MessageAssembler:
        """Make the assembler of a run's messages, without messages yet.

        Args:
            run_id: The run.
            model: The model that answers, if that is known.
        """
        clock = self._clock
        return MessageAssembler(
            run_id,
            lambda: self._ids.make("msg_", clock.now_ms()),
            lambda: format_ms(clock.now_ms()),
            self._settings.max_event_bytes,
            lambda: self._ids.make("req_", clock.now_ms()),
            model,
        )


class Agents(Mapping[str, Agent]):
    """The configured agents, by name. `default`, or else the first, answers when none is named."""

    def __init__(self, agents: Mapping[str, Agent]) -> None:
        self._agents = agents
        self._default = "default" if "default" in agents else next(iter(agents), "default")

    @override
    def __contains__(self, name: object) -> bool:
        return name in self._agents

    @override
    def __len__(self) -> int:
        return len(self._agents)

    @override
    def __getitem__(self, name: str) -> Agent:
        return self._agents[name]

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._agents))

    def views(self) -> list[AgentView]:
        """Return what clients see of the agents."""
        return [
            {
                "name": name,
                "kind": self._agents[name].kind,
                "model": self._agents[name].model,
                "description": self._agents[name].description,
                "is_default": name == self._default,
                "options": self._agents[name].options_schema(),
            }
            for name in self
        ]

    def named(self, name: str | None) -> str:
        """Return the name of the agent that is meant.

        Raises:
            InvalidInput: No agent of that name is configured.
        """
        agent = name or self._default
        if agent not in self._agents:
            raise InvalidInput(
                f"No agent {agent!r} is configured; configured are: {', '.join(self._agents)}.",
                code="unknown-agent",
                errors=[{"loc": ["body", "agent"], "msg": "not configured"}],
            )
        return agent


def created_draft(session: NewSession, default_ttl_seconds: int | None) -> Draft:
    """Return the event that a session begins with."""
    fields: dict[str, Any] = {
        "user_id": session.user_id,
        "title": session.title,
        "session_type": session.session_type,
        "working_dir": session.working_dir,
        "metadata": session.metadata,
        "ttl_seconds": session.ttl_seconds or default_ttl_seconds,
    }
    if session.extension_data:
        fields["extension_data"] = session.extension_data
    return Draft("session_created", fields)


def beginning(
    run_id: str,
    agent: str,
    messages: list[Message],
    position: str | None,
    model: str | None = None,
    more: Mapping[str, Any] | None = None,
    answers: str | None = None,
) -> list[Draft]:
    """Return the events that a run begins with; they belong in one commit.

    Args:
        run_id: The run.
        agent: Who answers.
        messages: The run's input, which enters the log with it.
        position: The position before them.
        model: The model that answers, if that is known.
        more: Further fields of `run_start`.
        answers: Without input of its own the message that the run answers.
    """
    fields: dict[str, Any] = {
        "run_id": run_id,
        "agent": agent,
        "message_ids": [message.id for message in messages] or ([answers] if answers else []),
    }
    if model is not None:
        fields["model"] = model
    if position is not None:
        # Only a run that never waited has a position: a queued one begins at its `run_queued`.
        fields["position"] = position
    fields |= more or {}
    return [*(message_draft(message, run_id) for message in messages), Draft("run_start", fields)]


async def restored(
    store: SessionStore, maker: Maker, writer: SessionWriter, run_id: str
) -> MessageAssembler:
    """Make the assembler of the active run again from the log.

    It has all events that `writer` knows to be durable when this returns; another process may have
    stored more meanwhile.
    """
    active = writer.head.active
    is_active = active is not None and active.run_id == run_id
    assembler = maker.assembler(run_id, active.model if active and is_active else None)
    if active is not None and is_active:
        await _replay(store, writer, active, assembler)
    return assembler


async def _replay(
    store: SessionStore, writer: SessionWriter, active: ActiveRun, assembler: MessageAssembler
) -> None:
    # With the `run_start`, which names the calls that the run has taken over.
    cursor, durable_seq = active.start_seq - 1, 0
    while True:
        records = await store.read(
            writer.id, writer.epoch, cursor, limit=5000, max_bytes=PAGE_BYTES_MAX
        )
        if not records:
            if cursor >= writer.durable_seq or durable_seq == writer.durable_seq:
                return
            # The events of another process have come to be known during the read.
            durable_seq = writer.durable_seq
            continue
        for record in records:
            event = decode(record.body)
            if event.get("run_id") == active.run_id and event["type"] not in TERMINAL_TYPES:
                assembler.replay(event)
        cursor = records[-1].seq
