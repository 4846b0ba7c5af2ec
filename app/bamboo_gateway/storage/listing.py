"""Filters, order and cursors of session lists, shared by all stores.

A list is ordered by the pair of sort value and id; descending order reverses it as a whole. A
cursor holds this pair for the last session shown, so the next page begins right behind it even when
that session no longer exists.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from bamboo_gateway.domain import codec
from bamboo_gateway.domain.errors import InvalidCursor
from bamboo_gateway.domain.sessions import Presence, SessionHead, Share, state_of
from bamboo_gateway.storage.reports import GoneSession, SessionPage, SessionQuery

SortKey = tuple[int | str, str]

# A cursor holds a title and an id; the gateway never makes a longer one.
_CURSOR_BYTES_MAX = 64 * 1024


def list_page(heads: Iterable[SessionHead], query: SessionQuery, presence: Presence) -> SessionPage:
    """List sessions in one pass, for stores that hold all heads in memory and have few of them."""
    start = read_cursor(query)
    found = [(sort_key(head, query.sort_by), head) for head in heads if admits(query, head)]
    if query.state is not None:
        found = [pair for pair in found if state_of(pair[1], presence) == query.state]
    found.sort(key=lambda pair: pair[0])
    total = len(found) if query.count else None
    if start is not None:
        keys = [key for key, _ in found]
        if query.descending:
            del found[bisect_left(keys, start) :]
        else:
            del found[: bisect_right(keys, start)]
    if query.descending:
        found.reverse()
    if start is None and query.offset:
        del found[: query.offset]
    return make_page([head for _, head in found[: query.limit + 1]], query, total)


def make_page(heads: list[SessionHead], query: SessionQuery, total: int | None) -> SessionPage:
    """Make a page of the heads found, which include one more than the limit if more follow."""
    has_more = len(heads) > query.limit
    shown = [head.copy() for head in heads[: query.limit]]
    cursor = make_cursor(query, sort_key(shown[-1], query.sort_by)) if has_more and shown else None
    return SessionPage(shown, cursor, has_more, total)


class Relations(NamedTuple):
    """The owner of a session, its tree and its shares: the fields that lists are kept by."""

    user_id: str | None
    parent_id: str | None
    root_id: str
    is_archived: bool
    shared_with: tuple[str, ...] = ()

    @staticmethod
    def of(head: SessionHead) -> "Relations":
        """Return the relations of a head."""
        parent, ancestors = head.parent, head.ancestors
        return Relations(
            head.user_id,
            parent.get("session_id") if parent else None,
            ancestors[0]["session_id"] if ancestors else head.id,
            head.logged_state == "archived",
            tuple(share.user_id for share in head.shares if share.user_id is not None),
        )

    @staticmethod
    def of_json(session_id: str, shape: dict[str, Any]) -> "Relations":
        """Return the relations of a stored head, which omits fields with their default value."""
        parent, ancestors = shape.get("parent"), shape.get("ancestors")
        return Relations(
            shape.get("user_id"),
            parent.get("session_id") if parent else None,
            ancestors[0]["session_id"] if ancestors else session_id,
            shape.get("logged_state") == "archived",
            tuple(user for share in shape.get("shares", ()) if (user := share.get("user_id"))),
        )


def shares_of(head: SessionHead) -> dict[str, int | None]:
    """Return when the last share with each user ends; None when one of them does not end."""
    return ends_with_users(head.shares)


def ends_with_users(shares: Iterable[Share]) -> dict[str, int | None]:
    """Return of some shares when the last one with each user ends."""
    ends: dict[str, int | None] = {}
    for share in shares:
        if share.user_id is None:
            continue
        known = ends.get(share.user_id, 0)
        if share.expires_at is None or known is None:
            ends[share.user_id] = None
        else:
            ends[share.user_id] = max(known, share.expires_at)
    return ends


def gone_of(head: SessionHead) -> GoneSession:
    """Return what is kept of a session that is deleted, for those who ask what has changed."""
    relations = Relations.of(head)
    return GoneSession(
        relations.user_id, head.session_type, relations.parent_id, relations.shared_with
    )


def ends_of(head: SessionHead) -> list[int]:
    """Return the moments, in ms, at which something of a session ends by itself, ascending.

    They are the end of its time to live, unless it is archived, and the ends of what is shared with
    users: for each of them the last one.
    """
    ends = set(shares_of(head).values())
    if head.logged_state != "archived":
        ends.add(head.expires_at)
    return sorted(end for end in ends if end is not None)


# The state of a session as far as its head decides it. It is the logged state if there is one, else
# `needs_input` or `idle`; or `open`, when the state also depends on the time and on who is
# connected. A closed session with a time to live is `open` too: it may have expired since.
HeadState = Literal["closed", "expired", "archived", "needs_input", "idle", "open"]


def head_state_of(head: SessionHead) -> HeadState:
    """Return the state that a head decides."""
    if head.logged_state is not None and (head.logged_state != "closed" or not head.ttl_seconds):
        return head.logged_state
    if head.logged_state is None and head.open_requests and not head.active:
        # It expires like any other, and not as long as a run is queued.
        return "open" if head.ttl_seconds is not None and not head.queue else "needs_input"
    return "open" if head.active or head.queue or head.ttl_seconds is not None else "idle"


def stored_head_state(shape: dict[str, Any]) -> HeadState:
    """Return the state that a stored head decides, which omits fields with their default value."""
    logged: HeadState | None = shape.get("logged_state")
    if logged is not None and (logged != "closed" or "ttl_seconds" not in shape):
        return logged
    if logged is None and "open_requests" in shape and "active" not in shape:
        return "open" if "ttl_seconds" in shape and "queue" not in shape else "needs_input"
    return "open" if shape.keys() & {"active", "queue", "ttl_seconds"} else "idle"


def admits(query: SessionQuery, head: SessionHead) -> bool:
    """Return whether all filters admit the session, except `state`, which only the caller knows."""
    return admits_relations(query, head.id, Relations.of(head)) and admits_content(query, head)


def admits_relations(query: SessionQuery, session_id: str, relations: Relations) -> bool:
    """Return whether the filters by id, owner, share, tree and archive admit a session."""
    return (
        (query.id_prefix is None or session_id.startswith(query.id_prefix))
        and (query.user_id is None or relations.user_id == query.user_id)
        and (query.shared_with is None or query.shared_with in relations.shared_with)
        and (query.parent_id is None or relations.parent_id == query.parent_id)
        and (query.root_id is None or query.root_id in (relations.root_id, session_id))
        and admits_archived(query, is_archived=relations.is_archived)
    )


def admits_archived(query: SessionQuery, *, is_archived: bool) -> bool:
    """Return whether the query lists archived sessions, or those that are not archived."""
    match archived_mode(query):
        case "exclude":
            return not is_archived
        case "only":
            return is_archived
        case "include":
            return True


def archived_mode(query: SessionQuery) -> Literal["exclude", "only", "include"]:
    """Return which sessions the query lists; the state `archived` is decided by the log alone."""
    return "only" if query.state == "archived" else query.archived


def admits_content(query: SessionQuery, head: SessionHead) -> bool:
    """Return whether the filters by share, type, times and title admit the session."""
    if query.shared_with is not None and not head.is_shared_with(
        query.shared_with, query.shared_at
    ):
        return False
    if not has_metadata(head.metadata, query.metadata):
        return False
    return _admits_values(
        query, head.session_type, head.created_at, head.last_activity_at, head.title
    )


def admits_stored(query: SessionQuery, shape: dict[str, Any], activity: int) -> bool:
    """Decide as `admits_content`, from a stored head, which omits fields with their default value.

    Do not look at the filter by share.
    """
    if not has_metadata(shape.get("metadata") or {}, query.metadata):
        return False
    return _admits_values(
        query,
        shape.get("session_type", "user"),
        shape.get("created_at", 0),
        activity,
        shape.get("title"),
    )


def has_metadata(metadata: Mapping[str, Any], wanted: Iterable[tuple[str, str]]) -> bool:
    """Return whether metadata has each key with its value, as `SessionQuery.metadata` says."""
    return all(key in metadata and _text_of(metadata[key]) == value for key, value in wanted)


def metadata_pairs(metadata: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Return all keys and values that a filter by metadata may name."""
    texts = ((key, _text_of(value)) for key, value in metadata.items())
    return ((key, text) for key, text in texts if text is not None)


def _text_of(value: Any) -> str | None:
    """Return a text as it is, another scalar as JSON; None for objects and arrays."""
    if isinstance(value, str):
        return value
    return None if isinstance(value, dict | list) else codec.encode(value).decode()


def _admits_values(
    query: SessionQuery, session_type: str, created_at: int, active_at: int, title: str | None
) -> bool:
    return (
        (query.session_type is None or session_type == query.session_type)
        and (query.created_after is None or created_at > query.created_after)
        and (query.created_before is None or created_at < query.created_before)
        and (query.active_after is None or active_at > query.active_after)
        and (
            query.title_contains is None
            or query.title_contains.casefold() in (title or "").casefold()
        )
    )


def is_filtered(query: SessionQuery) -> bool:
    """Return whether a filter by state or content is set, not only by owner, tree and archive."""
    return query.state is not None or is_filtered_by_content(query)


def is_filtered_by_content(query: SessionQuery) -> bool:
    """Return whether a filter is set that looks at each session.

    The filter by share is one of them: only the head says whether a share is still valid.
    """
    return any(
        value is not None
        for value in (
            query.id_prefix,
            query.session_type,
            query.created_after,
            query.created_before,
            query.active_after,
            query.title_contains,
            query.metadata or None,
            query.shared_with,
        )
    )


def sort_key(head: SessionHead, sort_by: str) -> SortKey:
    """Return the pair of sort value and id that orders a list."""
    value: int | str | None = getattr(head, sort_by)
    return ("" if value is None else value, head.id)


def make_cursor(query: SessionQuery, last: SortKey) -> str:
    """Encode the place behind the pair `last` in the order of `query`."""
    text = codec.encode([query.sort_by, query.descending, *last])
    return urlsafe_b64encode(text).rstrip(b"=").decode()


def read_cursor(query: SessionQuery) -> SortKey | None:
    """Return the pair behind which the page begins; None for the beginning of the list.

    Raises:
        InvalidCursor: The cursor cannot be decoded, or belongs to another order.
    """
    if query.cursor is None:
        return None
    if len(query.cursor) > _CURSOR_BYTES_MAX:
        raise InvalidCursor
    try:
        padded = query.cursor + "=" * (-len(query.cursor) % 4)
        sort_by, descending, value, session_id = codec.decode(urlsafe_b64decode(padded))
    except (ValueError, TypeError) as error:
        raise InvalidCursor from error
    expected = str if query.sort_by == "title" else int
    if (
        (sort_by, descending) != (query.sort_by, query.descending)
        or type(value) is not expected
        or not isinstance(session_id, str)
    ):
        raise InvalidCursor
    return (value, session_id)
