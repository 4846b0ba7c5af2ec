"""Reads a conversation for an agent's next turn, or to resume it in a new context.

A summary takes the place of the messages that it covers, and those are not read. Of the others,
memory holds those that the agent asks for. A short conversation that the session's event queue has
as a whole, as that of a new session, is taken from there.
"""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar, TypeVarTuple, Unpack

from anyio import to_thread
from anyio.lowlevel import checkpoint

from bamboo_gateway.agents.base import NOTHING_LEFT_OUT, Agent, LeftOut, SupportsWindow
from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.clock import format_ms
from bamboo_gateway.domain.codec import decode, encode
from bamboo_gateway.domain.limits import PAGE_BYTES_MAX, KiB
from bamboo_gateway.domain.messages import Message
from bamboo_gateway.domain.paths import path_of
from bamboo_gateway.domain.sessions import SessionHead, SummaryRef
from bamboo_gateway.sessions.answers import Summary
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.history import (
    count_on_path,
    find_on_path,
    history_page,
)
from bamboo_gateway.sessions.registry import SessionRegistry
from bamboo_gateway.sessions.streaming.event_queue import EventQueue
from bamboo_gateway.storage.base import SessionStore

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_INLINE_BYTES_MAX = 64 * KiB
"""Bytes to decode on the event loop: a fraction of a millisecond; a thread costs more."""

_PAGE = 2000
"""Messages to read and decode at once, unless their bytes are more than a page's."""

_FIRST_PAGE = 100
"""Messages to read before the agent is asked whether it wants more; then twice as many."""

_MESSAGE_EVENT = b'{"type":"message",'

_GLUE = "\n\n"
_CONTINUE = (
    "Please continue from where we left off, without asking further questions: "
    "go on with the last task that you were asked to do."
)


async def load_summary(
    store: SessionStore, head: SessionHead, ref: SummaryRef | None = None
) -> Summary | None:
    """Return the present SummaryCacheData, or that of `ref`; None when there is no summary."""
    ref = ref or head.summary
    if ref is None:
        return None
    records = await store.read(head.id, head.epoch, ref.seq - 1, limit=1, max_bytes=PAGE_BYTES_MAX)
    event = decode(records[0].body)
    return {
        "session_id": head.id,
        "summary": event["summary"],
        "turn_count": event["turn_count"],
        "position": event["position"],
        "message_id": event.get("message_id"),
        "created_at": event.get("created_at", event["time"]),
    }


@dataclass(frozen=True, slots=True)
class Conversation:
    """The part of a session's conversation that an agent gets.

    Attributes:
        messages: The messages, as a `Turn` holds them.
        left_out: The messages that the agent did not ask for.
        pages: The same messages, page by page.
    """

    messages: list[Message]
    left_out: LeftOut
    pages: list[list[Message]]

    async def let_go(self) -> None:
        """Free the messages a page at a time, once the agent has freed its own list.

        To free a long conversation at once would block the event loop: 0.1 s for 200,000 messages.
        """
        while self.pages:
            self.pages.pop()
            await checkpoint()


async def agent_conversation(
    store: SessionStore,
    head: SessionHead,
    before: int,
    agent: Agent,
    options: Mapping[str, Any],
    recent: EventQueue | None = None,
) -> Conversation:
    """Read the conversation as an agent gets it, with the summary in place of what it covers.

    Pages are read from the end backwards, as long as the agent wants more.

    Args:
        store: Where the log is.
        head: The session's head.
        before: The seq before which the conversation ends.
        agent: Who gets the conversation.
        options: What the chat passes to the agent.
        recent: The session's event queue, if the session is in memory.

    Raises:
        AgentError: The agent does not accept the options.
    """
    summary, after = await _uncovered(store, head, before)
    first = [] if summary is None else [_in_place_of_covered(summary)]
    path = path_of(head)
    is_in_one = path.is_whole(after, before)
    if is_in_one and (bodies := _in_memory(recent, after, before)) is not None:
        page = await _in_turn(sum(map(len, bodies)), _messages_of, bodies)
        return Conversation([*first, *page], NOTHING_LEFT_OUT, [page])
    window = agent if isinstance(agent, SupportsWindow) and head.knows_system_messages else None
    pages: list[list[Message]] = []
    count = asked = size = 0
    edge = before
    while True:
        limit = min(max(_FIRST_PAGE, count), _PAGE) if window is not None else _PAGE
        found = await find_on_path(
            store, head, path, after=after, before=edge, limit=limit, reverse=True
        )
        if found:
            bodies = [record.body for record in reversed(found)]
            pages.insert(0, await _in_turn(sum(map(len, bodies)), _messages_of, bodies))
            size += sum(map(len, bodies))
            count, edge = count + len(found), found[-1].seq
        if not found.has_more:
            given = [*first, *chain.from_iterable(pages)]
            return Conversation(given, NOTHING_LEFT_OUT, pages)
        if window is not None and count >= 2 * asked:
            asked = count
            earlier = await _system_messages(store, head, after, edge)
            given = [*first, *earlier, *chain.from_iterable(pages)]
            if await _in_turn(size, window.is_enough, given, options):
                left = await _left_out(store, head, after, edge, given)
                return Conversation(given, left, pages)


def _in_memory(recent: EventQueue | None, after: int, before: int) -> list[bytes] | None:
    """Return the messages between two seqs if all are in memory and no agent would leave any out.

    The store would return the same ones as its first and last page.
    """
    events = recent.between(after, before) if recent is not None else None
    if events is None:
        return None
    bodies = [body for body in events if body.startswith(_MESSAGE_EVENT)]
    return bodies if len(bodies) <= _FIRST_PAGE else None


def _in_place_of_covered(summary: Summary) -> Message:
    return Message(
        id=f"summary-{summary['position']}",
        role="system",
        content=f"Summary of the conversation so far:\n\n{summary['summary']}",
        created_at=summary["created_at"],
        metadata={"summary": True},
    )


async def _system_messages(
    store: SessionStore, head: SessionHead, after: int, before: int
) -> list[Message]:
    bodies = []
    for seq in head.system_seqs:
        if after < seq < before:
            found = await store.find(
                head.id, head.epoch, "message", after=seq - 1, before=seq + 1, limit=1
            )
            bodies += [record.body for record in found]
    return await _in_turn(sum(map(len, bodies)), _messages_of, bodies)


async def _left_out(
    store: SessionStore, head: SessionHead, after: int, before: int, given: list[Message]
) -> LeftOut:
    count = await count_on_path(store, head, path_of(head), after, before)
    count -= sum(after < seq < before for seq in head.system_seqs)
    covered = head.summary.turn_count if head.summary else 0
    users = head.counts.by_role.get("user", 0) - covered
    users -= sum(message.role == "user" for message in given)
    # The summary's count is its writer's, and messages may have been added since the run began.
    return LeftOut(turns=min(max(users, 0), count), messages=count)


async def _uncovered(
    store: SessionStore, head: SessionHead, before: int
) -> tuple[Summary | None, int]:
    """Return the summary, if there is one, and the seq after which it covers no message.

    What a summary covers never ends inside a tool exchange: an agent cannot use results without
    their calls.
    """
    summary = await load_summary(store, head)
    if summary is None or head.summary is None:
        return None, head.history_from
    after = max(head.history_from, head.summary.end_seq)
    path = path_of(head)
    first = await find_on_path(store, head, path, after=after, before=before, limit=1)
    if first and _role_of(first[0].body) == "tool":
        after = await _exchange_before(store, head, after)
    return summary, after


async def _exchange_before(store: SessionStore, head: SessionHead, seq: int) -> int:
    """Return the seq before the tool exchange that goes on behind `seq`."""
    path, edge = path_of(head), seq + 1
    while page := await find_on_path(store, head, path, before=edge, limit=50, reverse=True):
        for record in page:
            if _role_of(record.body) != "tool":
                return record.seq - 1
        edge = page[-1].seq
    return head.history_from


def _role_of(body: bytes) -> str:
    role: str = decode(body)["message"]["role"]
    return role


async def _in_turn(size: int, work: Callable[[Unpack[Ts]], T], *given: *Ts) -> T:
    """Work on this many bytes: at once, or in a thread when that would block the event loop."""
    if size <= _INLINE_BYTES_MAX:
        return work(*given)
    return await to_thread.run_sync(work, *given)


def _messages_of(bodies: list[bytes]) -> list[Message]:
    return [Message.of(decode(body)["message"]) for body in bodies]


async def resume(
    context: Context,
    registry: SessionRegistry,
    caller: Caller,
    session_id: str,
    *,
    interactive: bool,
) -> AsyncGenerator[bytes]:
    """Return the one message that carries a conversation into a new context.

    The generator yields `{"message": …}`, encoded, in pieces: memory holds a page of the
    conversation at a time.

    Raises:
        NotFound: There is no such session, or it is deleted during the iteration.
        SessionExpired: The session has expired.
    """

    async def look(head: SessionHead) -> tuple[SessionHead, Summary | None, int]:
        return head, *await _uncovered(context.store, head, head.seq + 1)

    head, summary, after = await registry.read(caller, session_id, look, "read")
    message = Message(
        id=f"resume-{head.epoch}-{head.seq}",
        role="user",
        content="",
        created_at=format_ms(context.clock.now_ms()),
        metadata={"resumed_from": head.id, "position": str(head.position)},
    )
    begin, content, end = encode({"message": message.to_json()}).partition(b'"content":"')

    async def pieces() -> AsyncGenerator[bytes]:
        yield begin + content
        glue = ""
        parts = _resumed(context.store, head, summary, after, interactive=interactive)
        async with aclosing(parts):
            async for part in parts:
                yield _in_json(glue) + part
                glue = _GLUE
        yield end

    return pieces()


async def _resumed(
    store: SessionStore,
    head: SessionHead,
    summary: Summary | None,
    after: int,
    *,
    interactive: bool,
) -> AsyncGenerator[bytes]:
    """Yield the parts of the message's text, escaped for a JSON string."""
    if summary is not None:
        yield _in_json(
            "This conversation is continued from an earlier one that ran out of context. "
            f"It is summarized below.\n\n{summary['summary']}"
        )
    title = "The turns since then:" if summary else "The conversation so far:"
    while page := await history_page(store, head, after=after, before=head.seq + 1):
        if title:
            yield _in_json(title)
            title = ""
        after = page[-1].seq
        bodies = [record.body for record in page]
        yield await _in_turn(sum(map(len, bodies)), _quoted, bodies)
    if not interactive:
        yield _in_json(_CONTINUE)


def _in_json(text: str) -> bytes:
    """Return a text escaped for a JSON string, without the quotes."""
    return encode(text)[1:-1]


def _quoted(bodies: list[bytes]) -> bytes:
    return _in_json(_GLUE).join(_in_json(_quote(message)) for message in _messages_of(bodies))


def _quote(message: Message) -> str:
    lines = [f"[{message.role}]"]
    if text := message.text:
        lines.append(text)
    lines += [
        f"(called the tool {call['name']}: {encode(call['arguments']).decode()})"
        for call in message.tool_calls or ()
    ]
    return "\n".join(lines)
