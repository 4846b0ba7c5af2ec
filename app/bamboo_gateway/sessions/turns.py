"""Turns of the current path: what a protocol shows of them that has fewer messages than the log.

A turn is a user's message and everything up to the next one. It is read from the events that stay
in the log for the session's life: messages, results of tools, `custom` events, requests for input.
"""

from typing import NamedTuple

from anyio import to_thread

from bamboo_gateway.domain.codec import decode
from bamboo_gateway.domain.errors import TooLarge
from bamboo_gateway.domain.events import TERMINAL_TYPES
from bamboo_gateway.domain.ids import is_id
from bamboo_gateway.domain.limits import PAGE_BYTES_MAX
from bamboo_gateway.domain.messages import Message
from bamboo_gateway.domain.paths import path_of
from bamboo_gateway.domain.positions import Position, parse_position
from bamboo_gateway.domain.sessions import ActiveRun, QueuedRun, SessionHead
from bamboo_gateway.sessions.history import bulk_limiter, find_on_path
from bamboo_gateway.sessions.queries import find_run
from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.commits import Record

TURN_TYPES = frozenset(
    {
        "message",
        "tool_complete",
        "tool_error",
        "custom",
        "input_required",
        "input_given",
        "input_closed",
        "complete",
    }
)

TURNS_BYTES_MAX = 4 * PAGE_BYTES_MAX
"""The most bytes of the messages of one page of turns; one turn may have more."""

TURN_BYTES_MAX = 16 * PAGE_BYTES_MAX
"""The most bytes of events that are read at once: of a turn that is longer than a page of them."""

_PAGE = 200


class Turns(NamedTuple):
    """The last turns of a path, or those before a message.

    Attributes:
        events: Their events in order, each as JSON.
        position: The end of the log.
        active: The active run.
        queue: The runs that wait.
        is_waiting: Whether people have to answer before those may begin.
        has_more: Whether there are earlier turns.
    """

    events: list[bytes]
    position: Position
    active: ActiveRun | None
    queue: list[QueuedRun]
    is_waiting: bool
    has_more: bool


class InputRun(NamedTuple):
    """The run that a message is the input of, and the position before its first event."""

    run_id: str
    position: Position


async def last_turns(
    store: SessionStore, head: SessionHead, *, limit: int, before: int | None = None
) -> Turns:
    """Return the last turns of the current path, at most `limit`; with `before`, up to that seq.

    Raises:
        TooLarge: The last turn has more than `TURN_BYTES_MAX`.
    """
    path, end = path_of(head), head.seq + 1 if before is None else before
    begin, size, count, edge = head.history_from, 0, 0, end
    has_more = False
    while count < limit and (
        page := await find_on_path(store, head, path, before=edge, limit=_PAGE, reverse=True)
    ):
        for record, is_users in await _roles(page):
            size += len(record.body)
            if is_users:
                count += 1
                begin = record.seq - 1
            if is_users and (count == limit or size > TURNS_BYTES_MAX):
                has_more = True
                break
        if has_more:
            break
        edge = page[-1].seq
    if not has_more:
        begin = head.history_from
    else:
        has_more = bool(await find_on_path(store, head, path, before=begin + 1, limit=1))
    events: list[bytes] = []
    left = TURN_BYTES_MAX
    for first, last in path.between(begin, end):
        found = await _between(store, head, first, last, left)
        left -= sum(map(len, found))
        events += found
    return Turns(
        events,
        head.position,
        head.active,
        list(head.queue),
        bool(head.open_requests),
        has_more,
    )


async def _roles(page: list[Record]) -> list[tuple[Record, bool]]:
    def read() -> list[tuple[Record, bool]]:
        return [(one, decode(one.body)["message"]["role"] == "user") for one in page]

    if sum(len(one.body) for one in page) < _INLINE:
        return read()
    return await to_thread.run_sync(read, limiter=bulk_limiter)


_INLINE = 64 * 1024
"""Messages of this size are decoded on the event loop."""


async def _between(
    store: SessionStore, head: SessionHead, after: int, last: int, bytes_max: int
) -> list[bytes]:
    """Return the events of a span that stay in the log: behind the first seq, up to the second.

    Raises:
        TooLarge: They have more than `bytes_max`.
    """
    found: list[bytes] = []
    size = 0
    while after < last:
        records = await store.read(head.id, head.epoch, after, limit=2000, max_bytes=PAGE_BYTES_MAX)
        if not records:
            break
        new = [one.body for one in records if one.seq <= last and one.type in TURN_TYPES]
        size += sum(map(len, new))
        if size > bytes_max:
            raise TooLarge(
                f"The turn has more than {TURN_BYTES_MAX} bytes. Read the session by its messages."
            )
        found += new
        after = records[-1].seq
    return found


async def run_of_input(store: SessionStore, head: SessionHead, message_id: str) -> InputRun | None:
    """Return the run that has a message as its input; None: no run, or no such message."""
    found = await store.find(head.id, head.epoch, "message", key=message_id, limit=1, reverse=True)
    if found:
        run_id = decode(found[0].body).get("run_id")
        return await input_run(store, head, run_id) if run_id else None
    for queued in head.queue:
        records = await store.read(
            head.id, head.epoch, queued.seq - 1, limit=1, max_bytes=PAGE_BYTES_MAX
        )
        if records and records[0].seq == queued.seq:
            event = decode(records[0].body)
            if any(message["id"] == message_id for message in event.get("messages", ())):
                return await input_run(store, head, queued.run_id)
    return None


async def run_at(store: SessionStore, head: SessionHead, position: Position) -> InputRun | None:
    """Return the run that was executing at a position; None: no run, or no such position."""
    if position.epoch != head.epoch:
        return None
    ended: set[str] = set()
    edge = min(position.seq, head.seq) + 1
    while page := await store.find(
        head.id, head.epoch, "run", before=edge, limit=_PAGE, reverse=True
    ):
        for record in page:
            event = decode(record.body)
            if event["type"] == "run_start":
                run_id = event["run_id"]
                return None if run_id in ended else await input_run(store, head, run_id)
            if event["type"] in TERMINAL_TYPES:
                ended.add(event["run_id"])
        edge = page[-1].seq
    return None


async def input_run(store: SessionStore, head: SessionHead, run_id: str) -> InputRun:
    """Return where a run begins, and whether it has ended.

    Raises:
        NotFound: There is no such run.
    """
    view = await find_run(store, head.id, head.epoch, run_id)
    position = parse_position(view["position"])
    assert position is not None  # the view has made it
    return InputRun(run_id, position)


async def users_message(
    store: SessionStore, head: SessionHead, message_id: str, alias: str
) -> Message | None:
    """Return the user's message of the current path with this id, or known by it.

    Args:
        store: Where the session is.
        head: Its head.
        message_id: The id.
        alias: The member of a message's metadata that has the id by which a client knows it. Of
            several messages the last one counts.
    """
    path = path_of(head)
    if is_id(message_id):
        # Mostly it is the message's own id. On its path no other message is known by it: that would
        # have taken its place, on another branch.
        found = await store.find(
            head.id, head.epoch, "message", key=message_id, limit=1, reverse=True
        )
        if found and found[0].seq in path:
            named = decode(found[0].body)["message"]
            return Message.of(named) if named["role"] == "user" else None
    edge = head.seq + 1
    while page := await find_on_path(store, head, path, before=edge, limit=_PAGE, reverse=True):
        for record, is_users in await _roles(page):
            if not is_users:
                continue
            message = decode(record.body)["message"]
            if message_id in (message["id"], (message.get("metadata") or {}).get(alias)):
                return Message.of(message)
        edge = page[-1].seq
    return None
