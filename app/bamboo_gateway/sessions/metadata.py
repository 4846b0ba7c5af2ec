"""The verbs that change a session without running anything in it."""

from collections.abc import Callable
from hashlib import sha256
from typing import Any, Literal

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.codec import canonical, encode
from bamboo_gateway.domain.errors import (
    InvalidInput,
    PreconditionFailed,
    RunActive,
    TooLarge,
)
from bamboo_gateway.domain.events import Draft
from bamboo_gateway.domain.limits import EXTENSION_DATA_BYTES_MAX, METADATA_BYTES_MAX
from bamboo_gateway.domain.message_assembler import message_draft
from bamboo_gateway.domain.messages import Message
from bamboo_gateway.domain.positions import Position
from bamboo_gateway.domain.projections import PATCHABLE, fold, session_view
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.domain.tool_order import in_order, still_open
from bamboo_gateway.sessions.access import id_taken, own
from bamboo_gateway.sessions.commands import Idempotency, NewSession, Outcome
from bamboo_gateway.sessions.pool import Decision, SessionPool
from bamboo_gateway.sessions.runs.client_ids import ClientIds
from bamboo_gateway.sessions.runs.factory import created_draft
from bamboo_gateway.sessions.streaming.session_writer import SessionWriter

_BYTES_MAX = {"metadata": METADATA_BYTES_MAX, "extension_data": EXTENSION_DATA_BYTES_MAX}


def view_of(pool: SessionPool, head: SessionHead) -> dict[str, Any]:
    """Gives the contract's Session of a head, as of now."""
    return session_view(head, pool.state_of(head), pool.expires_at(head))


def etag_of(head: SessionHead) -> str:
    """Gives the strong ETag over what PATCH can change."""
    shape = {name: getattr(head, name) for name in PATCHABLE}
    return f'"{sha256(canonical([head.epoch, shape])).hexdigest()[:32]}"'


async def create(
    pool: SessionPool, caller: Caller, session_id: str, new: NewSession, idem: Idempotency | None
) -> Outcome:
    """Creates a session; see `SessionManager.create_session`."""
    new = own(caller, new)

    def decide(live: SessionWriter) -> Decision:
        if live.head.seq:
            raise id_taken(session_id)
        return _creation(pool, live, new)

    return await pool.change(caller, session_id, decide, "make", idem=idem)


async def get_or_create(
    pool: SessionPool, caller: Caller, session_id: str, new: NewSession
) -> dict[str, Any]:
    """Gives the session, or creates it; see `SessionManager.get_or_create_session`."""
    new = own(caller, new)

    def decide(live: SessionWriter) -> Decision:
        if live.head.seq:
            return Decision([], view_of(pool, live.head))
        return _creation(pool, live, new)

    return (await pool.change(caller, session_id, decide, create=True)).answer


def _creation(pool: SessionPool, live: SessionWriter, new: NewSession) -> Decision:
    pool.quotas.check_session(new.user_id)
    draft = created_draft(new, pool.settings.default_ttl_seconds)
    check_sizes(draft.fields)
    return answer_after(pool, live, [draft])


def answer_after(pool: SessionPool, live: SessionWriter, drafts: list[Draft]) -> Decision:
    """Answers with the session as it will be once the drafts are durable."""
    head = live.head.copy()
    now_ms = pool.clock.now_ms()
    for kind, fields in drafts:
        fold(head, {"type": kind, "seq": head.seq + 1, **fields}, now_ms)
    return Decision(drafts, view_of(pool, head))


async def update(
    pool: SessionPool, caller: Caller, session_id: str, patch: dict[str, Any], if_match: str | None
) -> None:
    """Applies a merge patch; see `SessionManager.update_session`."""

    def decide(live: SessionWriter) -> Decision:
        head = live.head
        check_match(head, if_match)
        changed: dict[str, Any] = {}
        for name, value in patch.items():
            if name not in PATCHABLE:
                raise InvalidInput(f"`{name}` cannot be changed.")
            present = getattr(head, name)
            merged = merge_patch(present, value)
            if name in _BYTES_MAX and merged is None:
                merged = {}
            if merged != present:
                changed[name] = merged
        check_sizes(changed)
        return Decision([Draft("session_updated", changed)] if changed else [], {})

    await pool.change(caller, session_id, decide)


def check_match(head: SessionHead, if_match: str | None) -> None:
    """Holds a change to the version that it is meant for (RFC 9110, 13.1.1: strong comparison).

    Raises:
        PreconditionFailed: `if_match` names others only.
    """
    if if_match is None or if_match == "*":
        return
    if etag_of(head) not in {tag.strip() for tag in if_match.split(",")}:
        raise PreconditionFailed("The session was changed meanwhile; read it again.")


def merge_patch(target: Any, patch: Any) -> Any:
    """Applies RFC 7396; neither argument is changed."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def check_sizes(fields: dict[str, Any]) -> None:
    """Bounds what every list and snapshot carries.

    Raises:
        TooLarge: `metadata` or `extension_data` is over its limit.
    """
    for name, most in _BYTES_MAX.items():
        if name in fields and len(encode(fields[name])) > most:
            raise TooLarge(f"`{name}` may have {most} bytes as JSON.", code="metadata-too-large")


async def close(
    pool: SessionPool, caller: Caller, session_id: str, idem: Idempotency | None
) -> Outcome:
    """Closes; a closed session stays as it is."""

    def decide(live: SessionWriter) -> Decision:
        head = live.head
        if head.logged_state == "closed":
            return Decision([], view_of(pool, head))
        if head.active or head.queue or live.starting:
            raise RunActive(
                "A run is executing or queued; cancel it first.",
                extra={"active_run_id": head.active.run_id if head.active else None},
            )
        change = {"from": pool.state_of(head), "to": "closed"}
        return answer_after(pool, live, [Draft("state_change", change)])

    return await pool.change(caller, session_id, decide, idem=idem, closed_too=True)


async def reopen(
    pool: SessionPool,
    caller: Caller,
    session_id: str,
    idem: Idempotency | None,
    ttl_seconds: int | Literal["keep"] | None = "keep",
) -> Outcome:
    """Open a closed or expired session; one that is open changes only its time to live.

    An expired session comes back because each event that is appended is activity, from which its
    time to live is counted again.
    """

    def decide(live: SessionWriter) -> Decision:
        head = live.head
        drafts: list[Draft] = []
        state = pool.state_of(head)
        if state == "expired" or head.logged_state == "closed":
            drafts.append(Draft("state_change", {"from": state, "to": "idle"}))
        if ttl_seconds not in {"keep", head.ttl_seconds}:
            drafts.append(Draft("session_updated", {"ttl_seconds": ttl_seconds}))
        return answer_after(pool, live, drafts)

    return await pool.change(
        caller, session_id, decide, idem=idem, closed_too=True, expired_too=True
    )


async def add_messages(
    pool: SessionPool,
    caller: Caller,
    session_id: str,
    messages: list[Message],
    names: ClientIds,
    close: Callable[[str], Message] | None,
    idem: Idempotency | None,
) -> Outcome:
    """Appends messages; see `SessionManager.add_messages`. `close` is that of `in_order`."""

    def decide(live: SessionWriter) -> Decision:
        names.check(live)
        head = live.head
        if head.active and head.open_calls:
            # They are at work in the run, and their results will come from there.
            raise still_open(head.open_calls)
        said = in_order(head.open_calls, messages, close=close, all_answered=False)
        shapes = [message.to_json() for message in messages]
        drafts = [message_draft(message) for message in said]
        position = Position(live.epoch, live.head.seq + len(drafts))
        return Decision(drafts, {"messages": shapes, "position": str(position)})

    return await pool.change(caller, session_id, decide, idem=idem, prepare=names.prepare)
