"""Branching: begins a branch behind a message, for a run that answers there.

A command names a message; `resolve` finds the message that the new branch begins behind. `prepare`
reads what the decision needs, since the decision itself reads nothing: where that message is, what
follows it so far, and the counts of the path up to it.
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from anyio import to_thread

from bamboo_gateway.domain.branch_folds import state_at
from bamboo_gateway.domain.clock import format_ms, parse_ms
from bamboo_gateway.domain.codec import decode
from bamboo_gateway.domain.errors import BambooError, InvalidInput, NotFound, Refused
from bamboo_gateway.domain.events import Draft
from bamboo_gateway.domain.input_requests import calls_of_others, end_round
from bamboo_gateway.domain.message_assembler import message_draft
from bamboo_gateway.domain.paths import (
    BRANCH_SPANS_MAX,
    branches_of,
    owner_of,
    path_of,
    span_count,
)
from bamboo_gateway.domain.sessions import MAIN_BRANCH, SessionHead
from bamboo_gateway.domain.short_text import preview_of
from bamboo_gateway.domain.tool_order import SUPERSEDED
from bamboo_gateway.sessions.access import unknown_session
from bamboo_gateway.sessions.history import bulk_limiter, find_on_path, history_page, last_on_path
from bamboo_gateway.sessions.runs.factory import Maker
from bamboo_gateway.sessions.streaming.session_writer import SessionWriter
from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.commits import Record


@dataclass(frozen=True, slots=True)
class Point:
    """The message that a branch begins behind; without an id before the first message."""

    message_id: str | None = None
    seq: int = 0
    said_at: int | None = None
    preview: str | None = None


Resolve = Callable[[SessionStore, SessionHead], Awaitable[Point]]


def to_answer(message_id: str | None) -> Resolve:
    """Return how to find what a message answered: the last user (or system) message before it.

    A user's message answers nothing: it is meant itself. None means the last message of the
    current path.
    """

    async def resolve(store: SessionStore, head: SessionHead) -> Point:
        if message_id is None:
            path = path_of(head)
            record = await last_on_path(store, head, path, head.seq + 1)
        else:
            record = await named_message(store, head, message_id)
            path = path_of(head, owner_of(head, record.seq))
        edge = record.seq + 1 if record is not None else 0
        while page := await find_on_path(store, head, path, before=edge, limit=50, reverse=True):
            for found in page:
                event = decode(found.body)
                if event["message"]["role"] not in ("assistant", "tool"):
                    return _point(found, event)
            edge = page[-1].seq
        raise InvalidInput(
            "There is no user's message to answer again. Send one with POST /chat.",
            code="nothing-to-answer",
        )

    return resolve


def in_place_of(message_id: str) -> Resolve:
    """Return how to find the message before a user's message, whose place another one takes."""

    async def resolve(store: SessionStore, head: SessionHead) -> Point:
        record = await named_message(store, head, message_id)
        if decode(record.body)["message"]["role"] != "user":
            raise InvalidInput(
                f"The message {message_id!r} is not a user's: only those can be edited.",
                code="not-a-user-message",
                errors=[{"loc": ["body", "edit_message_id"], "msg": "is not a user's message"}],
            )
        path = path_of(head, owner_of(head, record.seq))
        before = await last_on_path(store, head, path, record.seq)
        return _point(before, decode(before.body)) if before is not None else Point()

    return resolve


def behind(message_id: str | None) -> Resolve:
    """Return how to find a message that is known to be there; None: before the first one."""

    async def resolve(store: SessionStore, head: SessionHead) -> Point:
        if message_id is None:
            return Point()
        record = await named_message(store, head, message_id)
        return _point(record, decode(record.body))

    return resolve


async def named_message(store: SessionStore, head: SessionHead, message_id: str) -> Record:
    """Return a message of any branch.

    Raises:
        NotFound: There is none with this id that counts.
    """
    # In logs of earlier versions an id may occur twice: the last one counts.
    found = await store.find(head.id, head.epoch, "message", key=message_id, limit=1, reverse=True)
    if not found or owner_of(head, found[0].seq) is None:
        raise NotFound(f"No message {message_id!r} in this session.", code="message-not-found")
    return found[0]


def _point(record: Record, event: dict[str, Any]) -> Point:
    message = event["message"]
    said_at = parse_ms(message.get("created_at") or event["time"])
    return Point(message["id"], record.seq, said_at, preview_of(message))


class Branching:
    """A branch on its way into the log.

    Call `prepare` first, and `drafts` in the decision right behind it.

    Args:
        store: Where the session is.
        maker: Makes ids.
        resolve: Finds the message that the branch begins behind.
        branches_max: The setting `max_branches`.
    """

    def __init__(
        self, store: SessionStore, maker: Maker, resolve: Resolve, branches_max: int
    ) -> None:
        self._store = store
        self._maker = maker
        self._resolve = resolve
        self._branches_max = branches_max
        self._point = Point()
        self._path: dict[str, Any] = {}
        self._seen: object = None

    @property
    def from_message_id(self) -> str | None:
        """The message that the branch begins behind."""
        return self._point.message_id

    async def prepare(self, writer: SessionWriter) -> None:
        """Read what the decision needs.

        On return the session is ready for the decision, and no message has come since.

        Raises:
            NotFound: There is no such session or message.
            InvalidInput: The message is not one that a branch can begin at.
        """
        while True:
            await writer.ready()
            if not writer.head.seq:
                raise unknown_session(writer.id)
            try:
                await writer.settled()
            except BambooError:
                continue
            await writer.ready()
            head, self._seen = writer.head.copy(), _seen(writer)
            self._point = await self._resolve(self._store, head)
            # Behind a run it will wait, and read the rest when its turn comes.
            self._path = {} if head.active is not None else await self._read(head)
            if writer.is_ready and self.is_fresh(writer):
                return

    def is_fresh(self, writer: SessionWriter) -> bool:
        """Return whether no message has come since `prepare`, or none of them matters."""
        return writer.head.active is not None or self._seen == _seen(writer)

    def check(self, writer: SessionWriter) -> None:
        """Refuse a branch for which there is no room.

        Raises:
            Refused: There are `max_branches`.
        """
        check_room(writer.head, self._branches_max)

    def drafts(self, writer: SessionWriter) -> list[Draft]:
        """Return the events that leave the current tip and begin the branch.

        Raises:
            Refused: There are `max_branches`.
        """
        self.check(writer)
        point, head = self._point, writer.head
        parent = owner_of(head, point.seq) if point.message_id is not None else None
        fields = {
            "branch_id": self._maker.branch_id(),
            "from_message_id": point.message_id,
            "parent_branch_id": parent,
            "path": self._path,
        }
        return [*closing_of_tip(self._maker, head), Draft("branch_started", fields)]

    async def _read(self, head: SessionHead) -> dict[str, Any]:
        """Return the `path` of the event (`domain.branch_folds`)."""
        point = self._point
        owner = owner_of(head, point.seq) if point.message_id is not None else MAIN_BRANCH
        assert owner is not None  # `resolve` has found it there
        read = _Behind()
        is_known = (point.message_id or "") in head.branch_points
        if point.message_id is not None or not (is_known and head.tip_id):
            await self._read_behind(head, owner, read, only_first=point.message_id is None)
        path: dict[str, Any] = {"seq": point.seq, "next_id": read.first_id}
        if head.tip_id is None and head.message_count:
            last = await last_on_path(self._store, head, path_of(head), head.seq + 1)
            path["left_id"] = decode(last.body)["message"]["id"] if last is not None else None
        summary = head.summary
        if summary is not None and summary.message_seq is None:
            covered = path_of(head)
            last = await last_on_path(self._store, head, covered, summary.covers_seq + 1)
            path["summary_message_seq"] = last.seq if last is not None else 0
        path |= self._counts(head, owner, read)
        if point.message_id is not None:
            path["preview"] = point.preview or await self._preview_before(head, owner)
        return path

    async def _preview_before(self, head: SessionHead, owner: str) -> str | None:
        """Return the preview that an earlier message gives, as one does on a path that goes on."""
        path, edge = path_of(head, owner), self._point.seq
        while page := await find_on_path(
            self._store, head, path, before=edge, limit=50, reverse=True
        ):
            for found in page:
                if preview := preview_of(decode(found.body)["message"]):
                    return preview
            edge = page[-1].seq
        return None

    async def _read_behind(
        self, head: SessionHead, owner: str, read: "_Behind", *, only_first: bool
    ) -> None:
        after, path = self._point.seq, path_of(head, owner)
        while page := await history_page(
            self._store, head, after=after, before=head.seq + 1, path=path
        ):
            await to_thread.run_sync(read.take, page, limiter=bulk_limiter)
            after = page[-1].seq
            if only_first:
                return

    def _counts(self, head: SessionHead, owner: str, read: "_Behind") -> dict[str, Any]:
        """Return the counts of the path: those of the tip, less what is behind the message."""
        point, tip = self._point, state_at(head, owner)
        if point.message_id is None:
            return dict(_NO_MESSAGES)
        roles = {role: count - read.roles[role] for role, count in tip.by_role.items()}
        said_at = format_ms(point.said_at) if point.said_at is not None else None
        first = tip.first_message_at
        return {
            "message_count": tip.message_count - read.roles.total(),
            "by_role": {role: count for role, count in roles.items() if count > 0},
            "tool_calls": tip.tool_calls - read.tool_calls,
            "first_message_at": format_ms(first) if first is not None else said_at,
            # Messages are said one after the other.
            "last_message_at": said_at,
        }


_NO_MESSAGES: dict[str, Any] = {
    "message_count": 0,
    "by_role": {},
    "tool_calls": 0,
    "first_message_at": None,
    "last_message_at": None,
    "preview": None,
}


def root_branch(
    maker: Maker, head: SessionHead, first_id: str | None, last_id: str | None
) -> list[Draft]:
    """Return the events that leave the current tip and begin a branch without any message.

    Args:
        maker: Makes its id.
        head: The session's head.
        first_id: The first message of the current path.
        last_id: The last one.
    """
    path: dict[str, Any] = {"seq": 0, "next_id": first_id, "left_id": last_id, **_NO_MESSAGES}
    if head.summary is not None and head.summary.message_seq is None:
        path["summary_message_seq"] = head.summary.covers_seq
    fields = {
        "branch_id": maker.branch_id(),
        "from_message_id": None,
        "parent_branch_id": None,
        "path": path,
    }
    return [*closing_of_tip(maker, head), Draft("branch_started", fields)]


def check_room(head: SessionHead, branches_max: int) -> None:
    """Refuse one more branch when there is no room for it.

    Raises:
        Refused: There are `max_branches`.
    """
    if len(branches_of(head)) >= branches_max or span_count(head) >= BRANCH_SPANS_MAX:
        raise too_many_branches(branches_max)


def closing_of_tip(maker: Maker, head: SessionHead) -> list[Draft]:
    """Return the events that close what waits at the tip of the current path, which is left.

    Whatever waits there gets no answer any more: the conversation goes on elsewhere.
    """
    return [
        *end_round(head, "superseded", maker.closed_call),
        *(
            message_draft(maker.closed_call(call_id, SUPERSEDED))
            for call_id in calls_of_others(head)
        ),
    ]


def too_many_branches(branches_max: int) -> Refused:
    """Return the refusal of one more branch, or of one more change between branches."""
    return Refused(
        f"Limit reached: {branches_max} branches in this session (max_branches), or "
        f"{BRANCH_SPANS_MAX} changes between them. Fork the session to go on.",
        code="too-many-branches",
    )


class _Behind:
    """What is behind the message on its path."""

    def __init__(self) -> None:
        self.first_id: str | None = None
        self.roles: Counter[str] = Counter()
        self.tool_calls = 0

    def take(self, page: list[Record]) -> None:
        for _, body in page:
            message = decode(body)["message"]
            self.first_id = self.first_id or message["id"]
            self.roles[message["role"]] += 1
            self.tool_calls += len(message.get("tool_calls") or ())


def _seen(writer: SessionWriter) -> object:
    head = writer.head
    is_busy = head.active is not None
    return id(head), is_busy, head.tip_id, head.message_count, head.branch_id, len(head.branches)
