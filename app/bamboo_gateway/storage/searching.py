"""What all stores share of the search for messages: what is indexed, order, cursors, filters."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable
from itertools import accumulate
from typing import NamedTuple, get_args

from bamboo_gateway.domain import codec
from bamboo_gateway.domain.clock import parse_ms
from bamboo_gateway.domain.errors import Conflict, InvalidCursor
from bamboo_gateway.domain.limits import PAGE_BYTES_MAX
from bamboo_gateway.domain.messages import Message, Role
from bamboo_gateway.domain.search import fold, searched_text
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.reports import SearchHit, SearchPage, SearchQuery

_ROLES = frozenset(get_args(Role))
_CURSOR_CHARS_MAX = 400
"""A cursor holds two numbers and an id of 128 characters, in base64."""


class SearchKey(NamedTuple):
    """The place of a message in the order of all searches, which show the greatest first."""

    created_at: int
    session_id: str
    seq: int


class FoundMessage(NamedTuple):
    """A message that a database has found, and its session."""

    key: SearchKey
    epoch: int
    title: str | None


class FoundMessages(NamedTuple):
    """A page of found messages, without their bodies."""

    found: list[FoundMessage]
    next_cursor: str | None


class SearchedMessage(NamedTuple):
    """What searches look at of a message. `created_at` is in ms, `text` is folded."""

    role: str
    created_at: int
    text: str


class UnsearchableError(Exception):
    """A `message` event is not of a shape that searches know."""


def searched_message(body: bytes) -> SearchedMessage | None:
    """Return what searches look at of a `message` event; None when it has no text.

    Raises:
        UnsearchableError: It is not of a shape that searches know. The store found it in a log,
            so nobody can refuse it any more: leave it out, and go on with the others.
    """
    try:
        return _searched_message(body)
    except Exception as error:
        # Other programs' documents and earlier versions have any shape. What an error says may
        # have parts of the message, which must not get into a log.
        raise UnsearchableError(type(error).__name__) from error


def _searched_message(body: bytes) -> SearchedMessage | None:
    event = codec.decode(body)
    message = Message.of(event["message"])
    text = fold(searched_text(message))
    if not text:
        return None
    try:
        created_at = parse_ms(message.created_at)
    except ValueError:
        # Messages of imported documents keep their times, and early versions did not check them.
        created_at = parse_ms(event["time"])
    if message.role not in _ROLES:
        # Databases refuse some texts, and a number.
        raise ValueError("no role")
    return SearchedMessage(message.role, created_at, text)


def admits_session(query: SearchQuery, head: SessionHead) -> bool:
    """Return whether the filters by session, owner and archive admit a session."""
    return (
        query.session_id in {None, head.id}
        and query.user_id in {None, head.user_id}
        and query.archived in {"include", "only" if head.logged_state == "archived" else "exclude"}
    )


def admits_message(query: SearchQuery, message: SearchedMessage) -> bool:
    """Return whether the filters by role and time admit a message, and it has all terms."""
    return (
        (message.role == query.role if query.role else message.role != "tool")
        and (query.created_after is None or message.created_at > query.created_after)
        and (query.created_before is None or message.created_at < query.created_before)
        and all(term in message.text for term in query.terms)
    )


def search_page(found: Iterable[tuple[SearchKey, SearchHit]], query: SearchQuery) -> SearchPage:
    """Make the page of all messages found; for stores that look at every message."""
    start = read_search_cursor(query.cursor)
    ordered = sorted(found, key=lambda pair: pair[0], reverse=True)
    behind = [pair for pair in ordered if start is None or pair[0] < start]
    shown = behind[: query.limit]
    sizes = accumulate(len(hit.body) for _, hit in shown)
    count = max(1, sum(size <= PAGE_BYTES_MAX for size in sizes))
    has_more = len(behind) > count
    cursor = make_search_cursor(behind[count - 1][0]) if has_more else None
    return SearchPage([hit for _, hit in shown[:count]], cursor, has_more)


async def with_bodies(page: FoundMessages, store: SessionStore) -> SearchPage:
    """Read the found messages from the logs of their sessions, up to about `PAGE_BYTES_MAX`.

    What was deleted since it was found is left out.
    """
    hits: list[SearchHit] = []
    size = 0
    last = None
    for key, epoch, title in page.found:
        try:
            records = await store.find(
                key.session_id, epoch, "message", after=key.seq - 1, before=key.seq + 1, limit=1
            )
        except Conflict:
            continue
        for _, body in records:
            size += len(body)
            if last is not None and size > PAGE_BYTES_MAX:
                return SearchPage(hits, make_search_cursor(last), has_more=True)
            hits.append(SearchHit(key.session_id, epoch, title, key.seq, body))
            last = key
    return SearchPage(hits, page.next_cursor, has_more=page.next_cursor is not None)


def make_search_cursor(last: SearchKey) -> str:
    """Encode the place behind a message."""
    return urlsafe_b64encode(codec.encode([*last])).rstrip(b"=").decode()


def read_search_cursor(cursor: str | None) -> SearchKey | None:
    """Return the message behind which a page begins; None for the beginning.

    Raises:
        InvalidCursor: The cursor cannot be decoded.
    """
    if cursor is None:
        return None
    if len(cursor) > _CURSOR_CHARS_MAX:
        raise InvalidCursor
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        created_at, session_id, seq = codec.decode(urlsafe_b64decode(padded))
    except (ValueError, TypeError) as error:
        raise InvalidCursor from error
    # Numbers that a database can compare with its own.
    if not (_is_number(created_at) and isinstance(session_id, str) and _is_number(seq)):
        raise InvalidCursor
    if not session_id.isascii() or "\0" in session_id:
        raise InvalidCursor
    return SearchKey(created_at, session_id, seq)


def _is_number(value: object) -> bool:
    return type(value) is int and -(1 << 62) < value < 1 << 62
