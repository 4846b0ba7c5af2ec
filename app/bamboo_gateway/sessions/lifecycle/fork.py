"""Fork: a new session with the beginning of another session's conversation."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Literal

from anyio import to_thread

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.codec import decode
from bamboo_gateway.domain.errors import BambooError, InvalidInput, NotFound
from bamboo_gateway.domain.events import Draft
from bamboo_gateway.domain.limits import BULK_PAGE_BYTES_MAX
from bamboo_gateway.domain.message_assembler import message_draft
from bamboo_gateway.domain.messages import Message
from bamboo_gateway.domain.paths import Path, owner_of, path_of
from bamboo_gateway.domain.positions import Position
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.domain.views import SessionView
from bamboo_gateway.sessions.access import owner_of_copy
from bamboo_gateway.sessions.answers import CutMoved, Forked
from bamboo_gateway.sessions.commands import Idempotency, Outcome
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.history import (
    PAGE,
    bulk_limiter,
    find_on_path,
    history_page,
    last_on_path,
)
from bamboo_gateway.sessions.lifecycle.bulk_creation import History, create_whole
from bamboo_gateway.sessions.metadata import view_of
from bamboo_gateway.sessions.runs.branching import named_message
from bamboo_gateway.sessions.transaction import Decision, Transactions
from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.commits import Record

ANCESTORS_MAX = 250
"""How deep forks of forks go; each keeps its whole ancestor path. A deeper tree's JSON would be
nested more deeply than parsers allow (Python's: 1000, two levels for each fork)."""


@dataclass(frozen=True, slots=True)
class Fork:
    """The fork to make. Without an id or index the child gets the whole conversation.

    Attributes:
        message_id: The last message that the child gets.
        message_index: The same by its place, counted from 0.
        new_name: The child's title.
        new_id: The child's id.
        metadata_strategy: Whether the child gets the parent's metadata and extension data.
    """

    message_id: str | None = None
    message_index: int | None = None
    new_name: str | None = None
    new_id: str | None = None
    metadata_strategy: Literal["inherit", "reset"] = "inherit"


@dataclass(frozen=True, slots=True)
class _Cut:
    """Where the child ends.

    Attributes:
        path: The path that has the child's messages: that of the branch of its last one.
        seq: The parent's last event that the child gets.
        message_id: The last message among them.
        moved: Whether the cut was moved out of a tool exchange.
    """

    path: Path
    seq: int
    message_id: str | None
    moved: bool


async def fork(
    context: Context,
    transactions: Transactions,
    caller: Caller,
    session_id: str,
    child_id: str,
    wanted: Fork,
    idem: Idempotency | None,
) -> Outcome[Forked]:
    """Create the child, whole or not at all. Then an event of the parent names the child.

    Raises:
        NotFound: There is no such session or message.
        InvalidInput: Both an id and an index are given, or the tree is too deep.
        SessionExists: The child's id is taken.
    """
    if wanted.message_id is not None and wanted.message_index is not None:
        raise InvalidInput("Give `from_message_id` or `from_message_index`, not both.")

    async def look(head: SessionHead) -> tuple[SessionHead, _Cut]:
        return head, await _find_cut(context.store, head, wanted)

    async def prepare() -> History[Forked]:
        parent, cut = await transactions.registry.read(caller, session_id, look, "read")
        if len(parent.ancestors) >= ANCESTORS_MAX:
            raise InvalidInput(f"A branch is at most {ANCESTORS_MAX} forks deep.")
        return History(
            pages=lambda _: _history(context.store, caller, parent, wanted, cut),
            answer=lambda head: _answer(context, head, cut),
        )

    outcome = await create_whole(context, transactions, caller, child_id, prepare, idem)
    if not outcome.replayed:
        await _notify_parent(transactions, caller, session_id, outcome.answer)
    return outcome


def _answer(context: Context, head: SessionHead, cut: _Cut) -> Forked:
    moved: CutMoved = {}
    if cut.moved:
        moved = {
            "cut_moved": True,
            "cut_message_id": cut.message_id,
            "detail": "The cut was moved so that a tool call and its results stay together.",
        }
    return {**view_of(context, head), **moved}


async def _find_cut(store: SessionStore, parent: SessionHead, wanted: Fork) -> _Cut:
    path = path_of(parent)
    if wanted.message_id is not None:
        record = await named_message(store, parent, wanted.message_id)
        path = path_of(parent, owner_of(parent, record.seq))
        end = record.seq
    elif wanted.message_index is not None:
        record = await _at_index(store, parent, path, wanted.message_index)
        end = record.seq
    else:
        last = await last_on_path(store, parent, path, parent.seq + 1)
        if last is None:
            return _Cut(path, parent.seq, None, moved=False)
        record, end = last, parent.seq
    moved_to = await _whole_exchange(store, parent, path, record.seq)
    if moved_to is not None:
        return _Cut(path, *moved_to, moved=True)
    return _Cut(path, end, _id_of(record), moved=False)


def _id_of(record: Record) -> str:
    message_id: str = decode(record.body)["message_id"]
    return message_id


async def _at_index(store: SessionStore, parent: SessionHead, path: Path, index: int) -> Record:
    """Return the message at an index. It reads the messages before it, and none behind."""
    after = parent.history_from
    while page := await find_on_path(
        store,
        parent,
        path,
        after=after,
        before=parent.seq + 1,
        limit=min(index + 1, PAGE),
        max_bytes=BULK_PAGE_BYTES_MAX,
    ):
        if index < len(page):
            return page[index]
        index -= len(page)
        after = page[-1].seq
    raise NotFound("The session has no such message.", code="message-not-found")


async def _whole_exchange(
    store: SessionStore, parent: SessionHead, path: Path, seq: int
) -> tuple[int, str | None] | None:
    """Return where the cut has to move, so that the calls before it have their results.

    It moves behind the results, or before the calls when results are still missing.
    """
    open_calls, called_at = await open_calls_at(store, parent, path, seq)
    moved: tuple[int, str | None] | None = None
    after = seq
    while open_calls:
        page = await find_on_path(
            store,
            parent,
            path,
            after=after,
            before=parent.seq + 1,
            limit=50,
            max_bytes=BULK_PAGE_BYTES_MAX,
        )
        if not page:
            last = await last_on_path(store, parent, path, called_at)
            return (last.seq, _id_of(last)) if last is not None else (called_at - 1, None)
        for record in page:
            message = decode(record.body)["message"]
            if message["role"] != "tool":
                return moved  # an imported history passed over these calls
            open_calls.discard(message.get("tool_call_id"))
            moved = record.seq, message["id"]
            if not open_calls:
                return moved
        after = page[-1].seq
    return moved


async def open_calls_at(
    store: SessionStore, parent: SessionHead, path: Path, seq: int
) -> tuple[set[str], int]:
    """Return the unanswered calls of the exchange that ends at `seq`, and where they were made."""
    answered: set[str] = set()
    before = seq + 1
    while page := await find_on_path(
        store,
        parent,
        path,
        before=before,
        limit=50,
        max_bytes=BULK_PAGE_BYTES_MAX,
        reverse=True,
    ):
        for record in page:
            message = decode(record.body)["message"]
            if message["role"] == "tool":
                answered.add(message.get("tool_call_id"))
                continue
            calls = {call["id"] for call in message.get("tool_calls") or ()}
            return calls - answered, record.seq
        before = page[-1].seq
    return set(), seq


async def _history(
    store: SessionStore, caller: Caller, parent: SessionHead, wanted: Fork, cut: _Cut
) -> AsyncIterator[list[Draft]]:
    inherit = wanted.metadata_strategy == "inherit"
    position = str(Position(parent.epoch, cut.seq))
    link = {"session_id": parent.id, "message_id": cut.message_id, "position": position}
    forked_at = parent.parent["position"] if parent.parent else None
    step = {"session_id": parent.id, "title": parent.title, "forked_at": forked_at}
    ancestors = [*parent.ancestors, step]
    user_id = owner_of_copy(caller, parent.user_id)
    if user_id != parent.user_id:
        # The lineage shows only the ids of sessions that belong to another user.
        ancestors = [ancestor | {"title": None} for ancestor in ancestors]
    created: dict[str, Any] = {
        "user_id": user_id,
        "title": wanted.new_name or f"{parent.title or parent.id} (fork)",
        "session_type": parent.session_type,
        "working_dir": parent.working_dir,
        "metadata": parent.metadata if inherit else {},
        "extension_data": parent.extension_data if inherit else {},
        "ttl_seconds": parent.ttl_seconds,
        "parent": link,
        "ancestors": ancestors,
    }
    yield [Draft("session_created", created)]
    after = parent.history_from
    while page := await history_page(store, parent, after=after, before=cut.seq + 1, path=cut.path):
        yield await to_thread.run_sync(_drafts_of, page, limiter=bulk_limiter)
        after = page[-1].seq


def _drafts_of(page: list[Record]) -> list[Draft]:
    return [message_draft(Message.of(decode(body)["message"])) for _, body in page]


async def _notify_parent(
    transactions: Transactions, caller: Caller, parent_id: str, child: SessionView
) -> None:
    assert child["parent"] is not None  # a fork has one
    fields = {
        "child_id": child["id"],
        "title": child["title"],
        "message_id": child["parent"]["message_id"],
    }
    try:
        await transactions.run(
            caller, parent_id, lambda _: Decision([Draft("session_forked", fields)], {})
        )
    except BambooError:
        # The child's link is the one that counts. A parent that is closed, archived, deleted or
        # another user's does not get the event.
        return
