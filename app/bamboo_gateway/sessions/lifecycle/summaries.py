"""Summaries: a text that replaces the beginning of a long conversation for an agent."""

from contextlib import aclosing

import anyio

from bamboo_gateway.agents.base import Agent, AgentError, Turn
from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.clock import format_ms
from bamboo_gateway.domain.codec import decode
from bamboo_gateway.domain.errors import BambooError, InvalidInput, NotFound, Unavailable
from bamboo_gateway.domain.events import Complete, Draft, Failed, Token
from bamboo_gateway.domain.paths import path_of
from bamboo_gateway.domain.positions import Position
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.sessions.answers import Summary
from bamboo_gateway.sessions.commands import Idempotency, NewMessage, Outcome
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.history import last_on_path
from bamboo_gateway.sessions.metadata import view_of
from bamboo_gateway.sessions.runs.conversation import agent_conversation, load_summary
from bamboo_gateway.sessions.runs.factory import Agents, Maker
from bamboo_gateway.sessions.streaming.session_writer import SessionWriter
from bamboo_gateway.sessions.transaction import Decision, Transactions
from bamboo_gateway.storage.base import SessionStore

SUMMARY_CHARS_MAX = 200_000
"""A summary goes into a model's context: a longer one would fill it."""

SUMMARY_SECONDS_MAX = 120
"""How long an agent may take to write a summary: a call waits for it."""

SUMMARY_REQUEST = (
    "Summarize this conversation so far, for somebody who is to carry it on without having read "
    "it: what was asked, what was decided and done, what is open. Answer with the summary alone."
)


async def require_summary(store: SessionStore, head: SessionHead) -> Summary:
    """Return the present summary.

    Raises:
        NotFound: There is no summary.
    """
    summary = await load_summary(store, head)
    if summary is None:
        raise NotFound("The session has no summary; PUT one first.", code="summary-not-found")
    return summary


async def save_summary(
    context: Context,
    transactions: Transactions,
    caller: Caller,
    session_id: str,
    summary: str,
    turn_count: int | None,
    position: Position | None,
    idem: Idempotency | None,
) -> Outcome[Summary]:
    """Save a summary of the current path up to `position`; None means the end of the log.

    Raises:
        InvalidInput: The position is not in this log.
    """
    end = _End(context.store, position)

    def decide(writer: SessionWriter) -> Decision[Summary]:
        head = writer.head
        covered = position or head.position
        if covered.epoch != head.epoch or not 0 < covered.seq <= head.seq:
            raise InvalidInput(
                "`position` must be a position of this session's log.", code="invalid-position"
            )
        turns = turn_count if turn_count is not None else head.counts.by_role.get("user", 0)
        saved: Summary = {
            "session_id": head.id,
            "summary": summary,
            "turn_count": turns,
            "position": str(covered),
            "message_id": end.message_id,
            # Not the event's own time, which is a moment later.
            "created_at": format_ms(context.clock.now_ms()),
        }
        fields = {name: value for name, value in saved.items() if name != "session_id"}
        fields["message_seq"] = end.seq
        return Decision([Draft("summary_saved", fields)], saved)

    return await transactions.run(caller, session_id, decide, prepare=end.prepare, idem=idem)


class _End:
    """The last message that a summary covers."""

    def __init__(self, store: SessionStore, position: Position | None) -> None:
        self.message_id: str | None = None
        self.seq = 0
        self._store = store
        self._position = position

    async def prepare(self, writer: SessionWriter) -> None:
        """Read it; on return no message has come since."""
        while True:
            await writer.ready()
            try:
                await writer.settled()
            except BambooError:
                continue
            await writer.ready()
            head, seen = writer.head.copy(), _seen(writer)
            before = (self._position.seq if self._position is not None else head.seq) + 1
            last = await last_on_path(self._store, head, path_of(head), before)
            self.message_id, self.seq = None, 0
            if last is not None:
                self.message_id, self.seq = decode(last.body)["message"]["id"], last.seq
            if writer.is_ready and seen == _seen(writer):
                return


def _seen(writer: SessionWriter) -> object:
    head = writer.head
    return id(head), head.branch_id, head.message_count, head.tip_id


async def delete_summary(transactions: Transactions, caller: Caller, session_id: str) -> None:
    """Delete the present summary.

    Raises:
        NotFound: There is no summary.
    """

    def decide(writer: SessionWriter) -> Decision:
        if writer.head.summary is None:
            raise NotFound("The session has no summary.", code="summary-not-found")
        fields = {"summary": None, "turn_count": 0, "position": str(writer.head.position)}
        return Decision([Draft("summary_saved", fields)], {})

    await transactions.run(caller, session_id, decide)


async def ask_for_summary(
    context: Context, agents: Agents, maker: Maker, head: SessionHead, agent: str | None
) -> str:
    """Let an agent write a summary of a session. Its events do not enter the session's log.

    Raises:
        InvalidInput: The agent is unknown, or there is nothing to summarize.
        Unavailable: The agent failed, said nothing, or took longer than `SUMMARY_SECONDS_MAX`.
    """
    name = agents.named(agent)
    conversation = await agent_conversation(context.store, head, head.seq + 1, agents[name], {})
    if not conversation.messages:
        raise InvalidInput("The session has no messages to summarize.", code="nothing-said")
    asked = maker.new_message(NewMessage("user", SUMMARY_REQUEST))
    view = view_of(context, head)
    turn = Turn(
        f"summary-{head.seq}", [*conversation.messages, asked], view, left_out=conversation.left_out
    )
    try:
        with anyio.fail_after(SUMMARY_SECONDS_MAX):
            text = await _text_of(agents[name], turn)
    except (AgentError, TimeoutError) as error:
        reason = error.detail if isinstance(error, AgentError) else "it took too long"
        raise Unavailable(
            f"The agent did not write a summary: {reason}.", code="agent-failed"
        ) from error
    del turn
    await conversation.let_go()
    if not text:
        raise Unavailable("The agent said nothing.", code="agent-failed")
    return text[:SUMMARY_CHARS_MAX]


async def _text_of(agent: Agent, turn: Turn) -> str:
    texts: list[str] = []
    async with aclosing(agent.run(turn)) as events:  # type: ignore[type-var]
        async for event in events:
            if isinstance(event, Token):
                texts.append(event.content)
            elif isinstance(event, Failed):
                raise AgentError(event.message)
            elif isinstance(event, Complete):
                break  # nothing may follow, and the agent may never end by itself
    return "".join(texts).strip()
