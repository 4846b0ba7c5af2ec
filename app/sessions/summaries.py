"""Summaries: what stands for the beginning of a long conversation, and how to take one up again."""

from contextlib import aclosing
from typing import Any

import anyio

from app.agents.base import Agent, AgentError, Turn
from app.domain.callers import Caller
from app.domain.clock import format_ms
from app.domain.codec import decode, encode
from app.domain.errors import InvalidInput, NotFound, Unavailable
from app.domain.events import Complete, Draft, Failed, Token
from app.domain.messages import Message
from app.domain.positions import parse_position
from app.domain.projections import session_view
from app.domain.sessions import SessionHead
from app.sessions.commands import Idempotency, NewMessage, Outcome
from app.sessions.live import LiveSession
from app.sessions.making import Agents, Maker
from app.sessions.pool import Decision, SessionPool
from app.sessions.reading import messages_between
from app.storage.base import SessionStore

SUMMARY_CHARS_MAX = 200_000
"""A summary replaces a conversation in a model's context: longer ones would fill it."""

SUMMARY_SECONDS_MAX = 120
"""How long an agent may take to write a summary: a call waits for it."""

SUMMARY_REQUEST = (
    "Summarize this conversation so far, for somebody who is to carry it on without having read "
    "it: what was asked, what was decided and done, what is open. Answer with the summary alone."
)

_CONTINUE = (
    "Please continue from where we left off, without asking further questions: "
    "go on with the last task that you were asked to do."
)


async def load_summary(store: SessionStore, head: SessionHead) -> dict[str, Any] | None:
    """Gives the present SummaryCacheData, or None without one."""
    if head.summary is None:
        return None
    records = await store.read(
        head.id, head.epoch, head.summary.seq - 1, limit=1, max_bytes=SUMMARY_CHARS_MAX
    )
    event = decode(records[0].body)
    return {
        "session_id": head.id,
        "summary": event["summary"],
        "turn_count": event["turn_count"],
        "position": event["position"],
        "created_at": event.get("created_at", event["time"]),
    }


async def require_summary(store: SessionStore, head: SessionHead) -> dict[str, Any]:
    """Gives the present summary.

    Raises:
        NotFound: There is none.
    """
    summary = await load_summary(store, head)
    if summary is None:
        raise NotFound("The session has no summary; PUT one first.", code="summary-not-found")
    return summary


async def save_summary(
    pool: SessionPool,
    caller: Caller,
    session_id: str,
    summary: str,
    turn_count: int | None,
    position: str | None,
    idem: Idempotency | None,
) -> Outcome:
    """Saves a summary of all up to `position` (default: the end).

    Raises:
        InvalidInput: The position is none of this log, or inside an exchange that is executing.
    """

    def decide(live: LiveSession) -> Decision:
        head = live.head
        covered = head.position if position is None else parse_position(position)
        if covered is None or covered.epoch != head.epoch or not 0 < covered.seq <= head.seq:
            raise InvalidInput(
                "`position` is no position of this session's log.", code="invalid-position"
            )
        turns = turn_count if turn_count is not None else head.counts.by_role.get("user", 0)
        fields = {
            "summary": summary,
            "turn_count": turns,
            "position": str(covered),
            # Said here: the event's own time is that of a moment later.
            "created_at": format_ms(pool.clock.now_ms()),
        }
        return Decision([Draft("summary_saved", fields)], {"session_id": head.id, **fields})

    return await pool.change(caller, session_id, decide, idem=idem)


async def delete_summary(pool: SessionPool, caller: Caller, session_id: str) -> None:
    """Deletes the present summary.

    Raises:
        NotFound: There is none.
    """

    def decide(live: LiveSession) -> Decision:
        if live.head.summary is None:
            raise NotFound("The session has no summary.", code="summary-not-found")
        fields = {"summary": None, "turn_count": 0, "position": str(live.head.position)}
        return Decision([Draft("summary_saved", fields)], {})

    await pool.change(caller, session_id, decide)


async def conversation(
    store: SessionStore, head: SessionHead, before: int
) -> tuple[dict[str, Any] | None, list[Message]]:
    """Gives what an agent is to know: the summary, and the messages that it does not cover.

    What a summary covers never ends inside a tool exchange: results that come after it are nothing
    without their calls.
    """
    summary = await load_summary(store, head)
    after = max(head.history_from, head.summary.covers_seq if head.summary else 0)
    messages = await _messages_between(store, head, after, before)
    if summary is not None and messages and messages[0].role == "tool":
        after = await _exchange_before(store, head, after)
        messages = await _messages_between(store, head, after, before)
    return summary, messages


async def _messages_between(
    store: SessionStore, head: SessionHead, after: int, before: int
) -> list[Message]:
    bodies = await messages_between(store, head.id, head.epoch, after, before)
    return [Message.of(decode(body)["message"]) for body in bodies]


async def _exchange_before(store: SessionStore, head: SessionHead, seq: int) -> int:
    """Gives the seq before the tool exchange that goes on behind `seq`."""
    before = seq + 1
    while page := await store.find(
        head.id,
        head.epoch,
        "message",
        after=head.history_from,
        before=before,
        limit=50,
        reverse=True,
    ):
        for record in page:
            if decode(record.body)["message"]["role"] != "tool":
                return record.seq - 1
        before = page[-1].seq
    return head.history_from


async def agent_messages(store: SessionStore, head: SessionHead, before: int) -> list[Message]:
    """Gives the conversation as an agent gets it: the summary in place of what it covers."""
    summary, messages = await conversation(store, head, before)
    if summary is None:
        return messages
    instead = Message(
        id=f"summary-{summary['position']}",
        role="system",
        content=f"Summary of the conversation so far:\n\n{summary['summary']}",
        created_at=summary["created_at"],
        metadata={"summary": True},
    )
    return [instead, *messages]


async def resume_message(
    store: SessionStore, head: SessionHead, *, interactive: bool, now: str
) -> dict[str, Any]:
    """Gives the one message that carries a conversation into a new context."""
    summary, messages = await conversation(store, head, head.seq + 1)
    parts = []
    if summary is not None:
        parts.append(
            "This conversation is continued from an earlier one that ran out of context. "
            f"It is summarized below.\n\n{summary['summary']}"
        )
    if messages:
        parts.append("The turns since then:" if summary else "The conversation so far:")
        parts += [_quoted(message) for message in messages]
    if not interactive:
        parts.append(_CONTINUE)
    message = Message(
        id=f"resume-{head.epoch}-{head.seq}",
        role="user",
        content="\n\n".join(parts),
        created_at=now,
        metadata={"resumed_from": head.id, "position": str(head.position)},
    )
    return message.to_json()


def _quoted(message: Message) -> str:
    lines = [f"[{message.role}]"]
    if text := message.text:
        lines.append(text)
    lines += [
        f"(called the tool {call['name']}: {encode(call['arguments']).decode()})"
        for call in message.tool_calls or ()
    ]
    return "\n".join(lines)


async def ask_for_summary(
    pool: SessionPool, agents: Agents, maker: Maker, head: SessionHead, agent: str | None
) -> str:
    """Lets an agent write what a session has come to; nothing of it enters the log here.

    Raises:
        InvalidInput: No such agent, or nothing to summarize.
        Unavailable: The agent failed, said nothing, or took longer than `SUMMARY_SECONDS_MAX`.
    """
    name = agents.named(agent)
    messages = await agent_messages(pool.store, head, head.seq + 1)
    if not messages:
        raise InvalidInput("The session has no messages to summarize.", code="nothing-said")
    asked = maker.new_message(NewMessage("user", SUMMARY_REQUEST))
    view = session_view(head, pool.state_of(head), pool.expires_at(head))
    turn = Turn(f"summary-{head.seq}", [*messages, asked], view)
    try:
        with anyio.fail_after(SUMMARY_SECONDS_MAX):
            text = await _said_by(agents[name], turn)
    except (AgentError, TimeoutError) as error:
        reason = error.detail if isinstance(error, AgentError) else "it took too long"
        raise Unavailable(
            f"The agent did not write a summary: {reason}.", code="agent-failed"
        ) from error
    if not text:
        raise Unavailable("The agent said nothing.", code="agent-failed")
    return text[:SUMMARY_CHARS_MAX]


async def _said_by(agent: Agent, turn: Turn) -> str:
    said: list[str] = []
    async with aclosing(agent.run(turn)) as events:  # type: ignore[type-var]
        async for event in events:
            if isinstance(event, Token):
                said.append(event.content)
            elif isinstance(event, Failed):
                raise AgentError(event.message)
            elif isinstance(event, Complete):
                break  # nothing may follow, and an agent may wait for ever after it
    return "".join(said).strip()
