"""Who may do what with a session: the one place that decides it.

`SessionRegistry` calls this module before it returns a head, a session or a list. So no command can
forget the check, and it comes before anything of the session is read (its state, its cursors, its
idempotency keys). The gateway answers 404 for sessions that belong to another user, exactly as for
an unknown id. It does its own work as `GATEWAY`.

A user or link that a session is shared with may read it: the session, its messages, events,
streams, export, statistics, branch tree and resume message. A user may also fork it. With the scope
`answer` a share also lets them answer the session's requests for input. The session's
existence is no secret then, so everything else is refused as `forbidden`.

One thing cannot be hidden: that an id which a client chose is taken (`session-exists`).
"""

from dataclasses import replace
from typing import Literal

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.errors import Forbidden, NotFound, SessionExists
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.sessions.commands import NewSession
from bamboo_gateway.storage.reports import SearchQuery, SessionQuery

Need = Literal["own", "answer", "read", "make"]
"""What a command needs: a session of the caller's own, one whose requests for input it may answer,
one that it may read, or a new one."""

_NOT_YOURS = "A session that you create is yours: leave out `user_id`."


def check_access(caller: Caller, head: SessionHead, need: Need, now_ms: int) -> None:
    """Check that a caller may do something with a session that exists.

    Raises:
        NotFound: The caller may not see the session.
        SessionExists: A new session is needed, and the id belongs to another user's session.
        Forbidden: The caller may only read the session.
    """
    if caller.is_owner(head.user_id):
        return
    if need == "make":
        raise id_taken(head.id)
    if not may_read(caller, head, now_ms):
        raise unknown_session(head.id)
    if need == "answer" and may_answer(caller, head, now_ms):
        return
    if need != "read":
        raise Forbidden("You may read this session, and nothing else.")


def may_read(caller: Caller, head: SessionHead, now_ms: int) -> bool:
    """Return whether a caller may read a session: its own, or one that is shared with it.

    A ticket works for one session, and only while its holder may read that session.
    """
    if caller.session_id not in {None, head.id}:
        return False
    if caller.share_id is not None:
        return any(one.id == caller.share_id and one.holds_at(now_ms) for one in head.shares)
    if caller.user_id in {None, head.user_id}:
        return True
    return head.is_shared_with(caller.user_id, now_ms)


def may_answer(caller: Caller, head: SessionHead, now_ms: int) -> bool:
    """Return whether a share with the scope `answer` lets a caller answer requests for input."""
    if caller.share_id is None and (caller.session_id is not None or caller.user_id is None):
        return False
    return any(
        one.scope == "answer"
        and one.holds_at(now_ms)
        and (one.id == caller.share_id if caller.share_id else one.user_id == caller.user_id)
        for one in head.shares
        if caller.session_id in {None, head.id}
    )


def check_may_make(caller: Caller) -> None:
    """Refuse to create a session for a credential that is for one existing session.

    Raises:
        Forbidden: The caller's credential is for one session.
    """
    if caller.session_id is not None:
        raise Forbidden("Your credential is for one session; it cannot create another.")


def own(caller: Caller, new: NewSession) -> NewSession:
    """Return a new session with the caller as its user.

    Raises:
        Forbidden: It names another user.
    """
    if caller.user_id is None:
        return new
    if new.user_id not in {None, caller.user_id}:
        raise Forbidden(_NOT_YOURS)
    return replace(new, user_id=caller.user_id)


def check_made(caller: Caller, user_id: str | None) -> None:
    """Check that a user creates a session for no other user.

    Raises:
        Forbidden: The session would belong to another user.
    """
    if not caller.is_owner(user_id):
        raise Forbidden(_NOT_YOURS)


def owner_of_copy(caller: Caller, user_id: str | None) -> str | None:
    """Return the user of a copy that the caller makes of a session, or a document, of `user_id`."""
    return user_id if caller.user_id is None else caller.user_id


def scoped(caller: Caller, query: SessionQuery) -> SessionQuery | None:
    """Narrow a list to the caller's own sessions, or to those shared with it.

    Returns:
        The narrowed query, or None when it can match nothing.

    Raises:
        Forbidden: The caller's credential is for one session.
    """
    if caller.session_id is not None:
        raise Forbidden("Your credential is for one session; it cannot list sessions.")
    if caller.user_id is None:
        return query
    if query.shared_with is not None:
        return query if query.shared_with == caller.user_id else None
    if query.user_id not in {None, caller.user_id}:
        return None
    return replace(query, user_id=caller.user_id)


def scoped_search(caller: Caller, query: SearchQuery) -> SearchQuery | None:
    """Narrow a search to the messages of the caller's own sessions.

    Returns:
        The narrowed query, or None when it can find nothing.

    Raises:
        Forbidden: The caller's credential is for one session.
    """
    if caller.session_id is not None:
        raise Forbidden("Your credential is for one session; it cannot search.")
    if caller.user_id is None:
        return query
    if query.user_id not in {None, caller.user_id}:
        return None
    return replace(query, user_id=caller.user_id)


def unknown_session(session_id: str) -> NotFound:
    """Return the one error for an unknown session and for one that the caller may not see."""
    return NotFound(f"No session {session_id!r}.", code="session-not-found")


def id_taken(session_id: str) -> SessionExists:
    """Return the one error for an id that is taken, no matter who owns the session."""
    return SessionExists(f"A session {session_id!r} exists already. Choose another id.")
