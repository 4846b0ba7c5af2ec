"""The columns of a session's row that follow from its head."""

from typing import Any, Final, Literal, get_args

from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.index.metadata_pairs import digest_of
from bamboo_gateway.storage.listing import Relations, shares_of

__all__ = [
    "GROUPS", "HEAD_STATES", "SLOT_BITS", "Group", "group_of", "moved", "row_of", "shares_of",
    "title_bytes",
]  # fmt: skip

# A slot of time is 2^14 ms, about 16 s. The sessions of one slot are sorted for each page that
# begins in it: they are those that were active within these seconds.
SLOT_BITS: Final = 14

# What a head decides of the session's state, so that a list by state looks at few sessions:
# `running` sessions are active, or wait with a queue; `timed` ones have a time to live, and so have
# `closing` ones, which are closed. `asking` ones have an open request for input, and so have
# `asking_timed` ones, which expire. The state of `closed`, `expired` and `archived` ones alone does
# not depend on the moment.
Group = Literal[
    "idle", "running", "timed", "closing", "closed", "expired", "archived", "asking", "asking_timed"
]
GROUPS: Final[tuple[Group, ...]] = get_args(Group)

# What `sessions.head_state` has for each group. Databases have these numbers, so none changes.
HEAD_STATES: Final[dict[Group, int]] = {group: number for number, group in enumerate(GROUPS)}


def group_of(head: SessionHead) -> Group:
    """Return the group of a head."""
    match head.logged_state:
        case None:
            if head.open_requests:
                expires = head.ttl_seconds is not None and not (head.active or head.queue)
                return "asking_timed" if expires else "asking"
            if head.active is not None or head.queue:
                return "running"
            return "idle" if head.ttl_seconds is None else "timed"
        case "closed":
            # What waits in a queue keeps a session from expiring.
            return "closed" if head.ttl_seconds is None or head.queue else "closing"
        case logged:
            return logged


def row_of(head: SessionHead) -> dict[str, Any]:
    """Return the columns that follow from a head, by name.

    `key`, `epoch`, `version`, `head` and the bytes are not among them.
    """
    relations = Relations.of(head)
    title = head.title or ""
    return {
        "id": head.id,
        "user_id": relations.user_id,
        "session_type": head.session_type,
        "parent_id": relations.parent_id,
        "root_id": relations.root_id,
        "head_state": HEAD_STATES[group_of(head)],
        "has_active": head.active is not None,
        # Both columns together say whether the gateway has to act (`SessionHead.is_unfinished`).
        "has_queue": bool(head.queue) or head.request_expires_at is not None,
        "created_at": head.created_at,
        "updated_at": head.updated_at,
        "message_count": head.message_count,
        "metadata_digest": digest_of(head.metadata),
        "title_key": title_bytes(title),
        "title_folded": title_bytes(title.casefold()),
        **moved(head.seq, head.last_activity_at, head.ttl_seconds),
    }


def title_bytes(title: str) -> bytes:
    """Return a title, or a part of one, as the columns have it: ordered as strings are."""
    return title.encode("utf-8", "surrogatepass")


def moved(seq: int, activity_ms: int, ttl_seconds: int | None) -> dict[str, Any]:
    """Return the columns that move with each commit, and with `touch`."""
    expires_at = None if ttl_seconds is None else activity_ms + ttl_seconds * 1000
    return {
        "seq": seq,
        "last_activity_at": activity_ms,
        "activity_slot": activity_ms >> SLOT_BITS,
        "expires_at": expires_at,
        "expires_slot": None if expires_at is None else expires_at >> SLOT_BITS,
    }
