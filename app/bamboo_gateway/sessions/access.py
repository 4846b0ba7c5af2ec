"""Who may do what with a session: the one place that decides it.

`SessionPool` asks here before it gives a head, a session or a list to anybody, so no verb can
forget to, and nothing of a session (its state, its cursors, the keys used in it) has been looked at
by then. What a caller may not see is not there for it: the same answer as for an unknown id. The
gateway's own work is done as `GATEWAY`.

Whom a session is shared with may read it: the session, its messages, events, streams, export,
statistics, branch tree and resume message. A user may also fork it. That there is more to it is no
secret then: the rest is `forbidden`.

One thing cannot be hidden: that an id which a client has chosen is taken (`session-exists`).
"""

from dataclasses import replace
from typing import Literal

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.errors import Forbidden, NotFound, SessionExists
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.sessions.commands import NewSession
from bamboo_gateway.storage.base import SessionQuery

Need = Literal["own", "read", "make"]
"""What a verb needs: a session of the caller's own, one that it may read, or a new one."""

_NOT_YOURS = "A session that you create is yours: leave out `user_id`."


def check_access(caller: Caller, head: SessionHead, need: Need, now_ms: int) -> None:
    """Lets a verb go on with a session that is there.

    Raises:
        NotFound: The caller may not see it.
        SessionExists: A new one was wanted, and the id is another's.
        Forbidden: It may read this one, and do nothing else with it.
    """
    if caller.is_owner(head.user_id):
        return
    if need == "make":
        raise id_taken(head.id)
    if not may_read(caller, head, now_ms):
        raise unknown_session(head.id)
    if need != "read":
        raise Forbidden("You may read this session, and no more.")


def may_read(caller: Caller, head: SessionHead, now_ms: int) -> bool:
    """Tells whether a caller may read a session: its own, or by a share that holds.

    A ticket shows what its holder may see, and of that the one session.
    """
    if caller.session_id not in {None, head.id}:
        return False
    if caller.share_id is not None:
        return any(one.id == caller.share_id and one.holds_at(now_ms) for one in head.shares)
    if caller.user_id in {None, head.user_id}:
        return True
    return head.is_shared_with(caller.user_id, now_ms)


def check_may_make(caller: Caller) -> None:
    """Refuses a caller that came for one session and no other.

    Raises:
        Forbidden: It did.
    """
    if caller.session_id is not None:
        raise Forbidden("What you came with opens one session; it makes none.")


def own(caller: Caller, new: NewSession) -> NewSession:
    """Makes a session that is to be created the caller's.

    Raises:
        Forbidden: It names another user.
    """
    if caller.user_id is None:
        return new
    if new.user_id not in {None, caller.user_id}:
        raise Forbidden(_NOT_YOURS)
    return replace(new, user_id=caller.user_id)


def check_made(caller: Caller, user_id: str | None) -> None:
    """Holds every creation to it: what a user creates is the user's.

    Raises:
        Forbidden: It would be another's.
    """
    if not caller.is_owner(user_id):
        raise Forbidden(_NOT_YOURS)


def owner_of_copy(caller: Caller, user_id: str | None) -> str | None:
    """Says whose a copy is that the caller makes of a session, or a document, of this user."""
    return user_id if caller.user_id is None else caller.user_id


def scoped(caller: Caller, query: SessionQuery) -> SessionQuery | None:
    """Narrows a list to the caller's own, or to what is shared with it; None: nothing of it.

    Raises:
        Forbidden: The caller came for one session; it has no lists.
    """
    if caller.session_id is not None:
        raise Forbidden("What you came with opens one session; it has no lists.")
    if caller.user_id is None:
        return query
    if query.shared_with is not None:
        return query if query.shared_with == caller.user_id else None
    if query.user_id not in {None, caller.user_id}:
        return None
    return replace(query, user_id=caller.user_id)


def unknown_session(session_id: str) -> NotFound:
    """The one answer for what is not there and for what the caller may not see."""
    return NotFound(f"No session {session_id!r}.", code="session-not-found")


def id_taken(session_id: str) -> SessionExists:
    """The one answer for an id that is taken, whosever the session is."""
    return SessionExists(f"There is a session {session_id!r} already.")
