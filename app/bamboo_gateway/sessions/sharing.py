"""Sharing: grants to read, and perhaps to answer, to one user or to anyone with a link's token.

Each can be revoked.

A share is an event of the session's log, folded into its head, so it holds exactly as long as the
log says. The log holds only a digest of a link's token: the token is returned once, to the caller
who made it. `access` decides what a share opens.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from hashlib import sha256
from hmac import compare_digest
from secrets import token_urlsafe
from typing import Final

from typing_extensions import override

from bamboo_gateway.domain.callers import GATEWAY, Caller
from bamboo_gateway.domain.clock import format_ms
from bamboo_gateway.domain.errors import Gone, InvalidInput, LimitReached, NotFound
from bamboo_gateway.domain.events import Draft
from bamboo_gateway.domain.limits import SHARES_MAX
from bamboo_gateway.domain.sessions import Share, ShareScope
from bamboo_gateway.sessions.access import may_read
from bamboo_gateway.sessions.answers import LinkToken, ShareMade, ShareView
from bamboo_gateway.sessions.commands import AnswerT, Idempotency, Outcome
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.lifecycle import archive
from bamboo_gateway.sessions.registry import SessionRegistry
from bamboo_gateway.sessions.streaming.session_writer import SessionWriter
from bamboo_gateway.sessions.transaction import Decide, Decision, Effect, Transactions

_TOKEN: Final = re.compile(r"link_([A-Za-z0-9_-]{2,171})\.[A-Za-z0-9_-]{43}")
_SECRET_BYTES: Final = 32
"""256 random bits: nobody can guess them, and a plain digest reveals nothing."""


@dataclass(frozen=True, slots=True)
class NewShare:
    """The share to make.

    Attributes:
        user_id: With whom the session is shared; None makes a link.
        expires_in_seconds: When the share ends; None: not by itself.
        scope: Whether it also permits to answer requests for input.
    """

    user_id: str | None = None
    expires_in_seconds: int | None = None
    scope: ShareScope = "read"


async def share(
    context: Context,
    transactions: Transactions,
    caller: Caller,
    session_id: str,
    wanted: NewShare,
    share_id: str,
    idem: Idempotency | None,
) -> Outcome[ShareMade]:
    """Share a session. A share with a user replaces an earlier one with the same user.

    Returns:
        The share, and for a link its token: only once, and not to a repeat with the same key.

    Raises:
        InvalidInput: The session belongs to that user.
        LimitReached: There are `SHARES_MAX` shares.
    """
    token = _make_token(session_id) if wanted.user_id is None else None

    def decide(writer: SessionWriter) -> Decision[ShareView]:
        head, now_ms = writer.head, context.clock.now_ms()
        if wanted.user_id is not None and wanted.user_id == head.user_id:
            raise InvalidInput("The session is this user's own; share it with another.")
        held = [one for one in head.shares if one.holds_at(now_ms)]
        replaced = wanted.user_id is not None and head.is_shared_with(wanted.user_id, now_ms)
        if len(held) >= SHARES_MAX and not replaced:
            raise LimitReached(f"Limit reached: {SHARES_MAX} shares. Revoke a share and retry.")
        seconds = wanted.expires_in_seconds
        made = Share(
            share_id,
            wanted.user_id,
            now_ms,
            now_ms + seconds * 1000 if seconds is not None else None,
            _digest(token) if token is not None else None,
            wanted.scope,
        )
        fields = {"share": {**share_view(made), "token_sha256": made.token_sha256}}
        return Decision([Draft("session_shared", fields)], share_view(made))

    outcome = await _change(context, transactions, caller, session_id, decide, idem)
    told: LinkToken = {"token": token} if token is not None and not outcome.replayed else {}
    return Outcome({**outcome.answer, **told}, outcome.replayed)


async def shares(
    context: Context, registry: SessionRegistry, caller: Caller, session_id: str
) -> list[ShareView]:
    """Return the valid shares, the oldest first."""
    head = await registry.head(caller, session_id)
    now_ms = context.clock.now_ms()
    return [share_view(one) for one in head.shares if one.holds_at(now_ms)]


@dataclass(frozen=True, slots=True)
class _EndStreams(Effect):
    """End the streams of callers who may not read the session any more."""

    context: Context
    writer: SessionWriter

    @override
    def committed(self) -> None:
        now_ms = self.context.clock.now_ms()
        for connection in list(self.writer.channel.connections.values()):
            if not may_read(connection.caller, self.writer.head, now_ms):
                connection.end("unauthorized")


async def revoke(
    context: Context, transactions: Transactions, caller: Caller, session_id: str, share_id: str
) -> None:
    """End a share, and the streams that were opened with it.

    Raises:
        NotFound: The session has no such share.
    """

    def decide(writer: SessionWriter) -> Decision:
        if not any(one.id == share_id for one in writer.head.shares):
            raise NotFound(f"No share {share_id!r} of this session.", code="share-not-found")
        drafts = [Draft("share_revoked", {"share_id": share_id})]
        return Decision(drafts, {}, (_EndStreams(context, writer),))

    await _change(context, transactions, caller, session_id, decide, None)


async def _change(
    context: Context,
    transactions: Transactions,
    caller: Caller,
    session_id: str,
    decide: Decide[AnswerT],
    idem: Idempotency | None,
) -> Outcome[AnswerT]:
    """Change the shares of a session. Those of a read-only one can be changed too."""
    is_archived = False

    async def prepare(writer: SessionWriter) -> None:
        nonlocal is_archived
        if writer.head.logged_state == "archived":
            is_archived = True
            await writer.settled()
            await context.store.unpack(session_id, writer.epoch)
            await writer.ready()

    try:
        return await transactions.run(
            caller, session_id, decide, accepts="any", prepare=prepare, idem=idem
        )
    finally:
        if is_archived:
            await archive.pack_again(context, transactions.registry, session_id)


def share_view(share: Share) -> ShareView:
    """Return a share as clients see it; one without a user is a link."""
    return {
        "id": share.id,
        "user_id": share.user_id,
        "created_at": format_ms(share.created_at),
        "expires_at": format_ms(share.expires_at) if share.expires_at is not None else None,
        "scope": share.scope,
    }


async def link_caller(context: Context, registry: SessionRegistry, token: str) -> Caller | None:
    """Return the caller of a link's token; None when no valid share has this token."""
    match = _TOKEN.fullmatch(token)
    if match is None:
        return None
    try:
        session_id = urlsafe_b64decode(match[1] + "=" * (-len(match[1]) % 4)).decode()
        head = await registry.head(GATEWAY, session_id)
    except (ValueError, NotFound, Gone):
        return None
    digest, now_ms = _digest(token), context.clock.now_ms()
    for one in head.shares:
        if one.token_sha256 and compare_digest(one.token_sha256, digest) and one.holds_at(now_ms):
            return Caller(
                f"link:{one.id}",
                rights=frozenset({"read", "answer"} if one.scope == "answer" else {"read"}),
                session_id=session_id,
                credential=f"link:{one.id}",
                expires_at=one.expires_at,
                share_id=one.id,
            )
    return None


def _make_token(session_id: str) -> str:
    # The token names its session, so that no index of tokens is needed to find it.
    name = urlsafe_b64encode(session_id.encode()).rstrip(b"=").decode()
    return f"link_{name}.{token_urlsafe(_SECRET_BYTES)}"


def _digest(token: str) -> str:
    return sha256(token.encode()).hexdigest()
