"""Sharing: read-only grants, to one user or to whoever has a link's token; each can be revoked.

A share is an event of the session's log, folded into its head, so it holds exactly as long as the
log says. Of a link's token the log has a digest: the token is told once, to whom made it. What a
share opens is for `access` to decide.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from hashlib import sha256
from hmac import compare_digest
from secrets import token_urlsafe
from typing import Any, Final

from bamboo_gateway.domain.callers import GATEWAY, Caller
from bamboo_gateway.domain.clock import format_ms
from bamboo_gateway.domain.errors import BambooError, Gone, InvalidInput, LimitReached, NotFound
from bamboo_gateway.domain.events import Draft
from bamboo_gateway.domain.limits import SHARES_MAX
from bamboo_gateway.domain.sessions import Share
from bamboo_gateway.sessions.access import may_read
from bamboo_gateway.sessions.commands import Idempotency, Outcome
from bamboo_gateway.sessions.lifecycle import archive
from bamboo_gateway.sessions.pool import Decide, Decision, SessionPool
from bamboo_gateway.sessions.streaming.session_writer import SessionWriter

_TOKEN: Final = re.compile(r"link_([A-Za-z0-9_-]{2,171})\.[A-Za-z0-9_-]{43}")
_SECRET_BYTES: Final = 32
"""256 bits of chance: nothing to guess, and a plain digest says nothing of it."""


@dataclass(frozen=True, slots=True)
class NewShare:
    """With whom; a link without a `user_id`. It ends after so many seconds, or by itself never."""

    user_id: str | None = None
    expires_in_seconds: int | None = None


async def share(
    pool: SessionPool,
    caller: Caller,
    session_id: str,
    wanted: NewShare,
    share_id: str,
    idem: Idempotency | None,
) -> Outcome:
    """Shares a session; one with a user takes the place of an earlier one with the same user.

    Returns:
        The share, and for a link its token: this once, not when a key is used again.

    Raises:
        InvalidInput: It is the user's own session.
        LimitReached: There are `SHARES_MAX`.
    """
    token = _make_token(session_id) if wanted.user_id is None else None

    def decide(live: SessionWriter) -> Decision:
        head, now_ms = live.head, pool.clock.now_ms()
        if wanted.user_id is not None and wanted.user_id == head.user_id:
            raise InvalidInput("The session is this user's own; share it with another.")
        held = [one for one in head.shares if one.holds_at(now_ms)]
        replaced = wanted.user_id is not None and head.is_shared_with(wanted.user_id, now_ms)
        if len(held) >= SHARES_MAX and not replaced:
            raise LimitReached(f"The session has {SHARES_MAX} shares; revoke some.")
        seconds = wanted.expires_in_seconds
        made = Share(
            share_id,
            wanted.user_id,
            now_ms,
            now_ms + seconds * 1000 if seconds is not None else None,
            _digest(token) if token is not None else None,
        )
        fields = {"share": share_view(made) | {"token_sha256": made.token_sha256}}
        return Decision([Draft("session_shared", fields)], share_view(made))

    outcome = await _change(pool, caller, session_id, decide, idem)
    told = {"token": token} if token is not None and not outcome.replayed else {}
    return Outcome(outcome.answer | told, outcome.replayed)


async def shares(pool: SessionPool, caller: Caller, session_id: str) -> list[dict[str, Any]]:
    """Lists the shares that hold, the oldest first."""
    head = await pool.head(caller, session_id)
    now_ms = pool.clock.now_ms()
    return [share_view(one) for one in head.shares if one.holds_at(now_ms)]


async def revoke(pool: SessionPool, caller: Caller, session_id: str, share_id: str) -> None:
    """Ends a share, and the streams that stood on it.

    Raises:
        NotFound: The session has no such share.
    """

    def decide(live: SessionWriter) -> Decision:
        if not any(one.id == share_id for one in live.head.shares):
            raise NotFound(f"No share {share_id!r} of this session.", code="share-not-found")

        def durable(error: BambooError | None) -> None:
            if error is None:
                end_streams(pool, live)

        return Decision([Draft("share_revoked", {"share_id": share_id})], {}, [durable])

    await _change(pool, caller, session_id, decide, None)


async def _change(
    pool: SessionPool, caller: Caller, session_id: str, decide: Decide, idem: Idempotency | None
) -> Outcome:
    """Changes the shares of a session in any state: also what is read-only can be revoked."""
    is_archived = False

    async def prepare(live: SessionWriter) -> None:
        nonlocal is_archived
        if live.head.logged_state == "archived":
            is_archived = True
            await live.settled()
            await pool.store.unpack(session_id, live.epoch)
            await live.ready()

    try:
        return await pool.change(
            caller, session_id, decide, idem=idem, prepare=prepare, read_only_too=True
        )
    finally:
        if is_archived:
            await archive.pack_again(pool, session_id)


def end_streams(pool: SessionPool, live: SessionWriter) -> None:
    """Ends the streams of those who may not read the session any more."""
    now_ms = pool.clock.now_ms()
    for connection in list(live.channel.connections.values()):
        if not may_read(connection.caller, live.head, now_ms):
            connection.end("unauthorized")


def share_view(share: Share) -> dict[str, Any]:
    """Gives a share as it is shown: without a user it is a link."""
    return {
        "id": share.id,
        "user_id": share.user_id,
        "created_at": format_ms(share.created_at),
        "expires_at": format_ms(share.expires_at) if share.expires_at is not None else None,
    }


async def link_caller(pool: SessionPool, token: str) -> Caller | None:
    """Gives who comes with a link's token; None when it opens nothing (any more)."""
    match = _TOKEN.fullmatch(token)
    if match is None:
        return None
    try:
        session_id = urlsafe_b64decode(match[1] + "=" * (-len(match[1]) % 4)).decode()
        head = await pool.head(GATEWAY, session_id)
    except (ValueError, NotFound, Gone):
        return None
    digest, now_ms = _digest(token), pool.clock.now_ms()
    for one in head.shares:
        if one.token_sha256 and compare_digest(one.token_sha256, digest) and one.holds_at(now_ms):
            return Caller(
                f"link:{one.id}",
                rights=frozenset({"read"}),
                session_id=session_id,
                credential=f"link:{one.id}",
                expires_at=one.expires_at,
                share_id=one.id,
            )
    return None


def _make_token(session_id: str) -> str:
    # It names its session, so that it is found without an index of tokens.
    name = urlsafe_b64encode(session_id.encode()).rstrip(b"=").decode()
    return f"link_{name}.{token_urlsafe(_SECRET_BYTES)}"


def _digest(token: str) -> str:
    return sha256(token.encode()).hexdigest()
