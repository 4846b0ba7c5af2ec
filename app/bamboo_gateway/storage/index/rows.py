"""The columns of a session's row that follow from its head."""

from typing import Any, Final

from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.listing import HeadState, Relations, head_state_of

# A slot of time is 2^14 ms, about 16 s. The sessions of one slot are sorted for each page that
# begins in it: they are those that were active within these seconds.
SLOT_BITS: Final = 14

# What `sessions.head_state` has for each state; a database has these numbers, so none changes.
HEAD_STATES: Final[dict[HeadState, int]] = {
    "idle": 0,
    "open": 1,
    "closed": 2,
    "expired": 3,
    "archived": 4,
}


def row_of(head: SessionHead) -> dict[str, Any]:
    """Return the columns that follow from a head, by name.

    Not `key`, `epoch`, `version`, `head` and the bytes. `moved` has those that move without a head.
    """
    relations = Relations.of(head)
    title = head.title or ""
    return {
        "id": head.id,
        "user_id": relations.user_id,
        "session_type": head.session_type,
        "parent_id": relations.parent_id,
        "root_id": relations.root_id,
        "head_state": HEAD_STATES[head_state_of(head)],
        "logged_state": head.logged_state,
        "has_active": head.active is not None,
        "has_queue": bool(head.queue),
        "created_at": head.created_at,
        "updated_at": head.updated_at,
        "message_count": head.message_count,
        "title_key": title.encode(),
        "title_folded": title.casefold().encode(),
        **moved(head.seq, head.last_activity_at, head.ttl_seconds),
    }


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


def shares_of(head: SessionHead) -> dict[str, int | None]:
    """Return when the last share with each user ends; None when one of them does not end."""
    ends: dict[str, int | None] = {}
    for share in head.shares:
        if share.user_id is None:
            continue
        known = ends.get(share.user_id, 0)
        if known is not None:
            ends[share.user_id] = None if share.expires_at is None else max(known, share.expires_at)
    return ends
