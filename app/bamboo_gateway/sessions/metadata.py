"""Commands that change a session without starting a run."""

from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal

from bamboo_gateway.domain.branch_folds import linked
from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.codec import canonical, encode
from bamboo_gateway.domain.errors import (
    InvalidInput,
    PreconditionFailed,
    TooLarge,
)
from bamboo_gateway.domain.events import Draft
from bamboo_gateway.domain.input_requests import check_not_asked
from bamboo_gateway.domain.limits import EXTENSION_DATA_BYTES_MAX, METADATA_BYTES_MAX
from bamboo_gateway.domain.message_assembler import message_draft
from bamboo_gateway.domain.positions import Position
from bamboo_gateway.domain.projections import PATCHABLE, fold
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.domain.titles import first_message_titles
from bamboo_gateway.domain.tool_order import in_order, still_open
from bamboo_gateway.domain.views import SessionView, session_view
from bamboo_gateway.sessions.access import id_taken, own
from bamboo_gateway.sessions.answers import MessagesAdded
from bamboo_gateway.sessions.commands import Idempotency, NewMessage, NewSession, Outcome
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.named_files import named_files
from bamboo_gateway.sessions.runs.client_ids import ClientIds
from bamboo_gateway.sessions.runs.factory import Maker, created_draft
from bamboo_gateway.sessions.streaming.session_writer import SessionWriter
from bamboo_gateway.sessions.transaction import Decision, Prepare, SlotFreed, Transactions

if TYPE_CHECKING:
    from bamboo_gateway.domain.messages import Message

_BYTES_MAX = {"metadata": METADATA_BYTES_MAX, "extension_data": EXTENSION_DATA_BYTES_MAX}


def view_of(context: Context, head: SessionHead) -> SessionView:
    """Return the contract's Session of a head, as of now."""
    states = context.states
    return session_view(head, states.state_of(head), states.expires_at(head))


def etag_of(head: SessionHead) -> str:
    """Return the strong ETag over what PATCH can change."""
    shape = {name: getattr(head, name) for name in PATCHABLE}
    return f'"{sha256(canonical([head.epoch, shape])).hexdigest()[:32]}"'


async def create(
    context: Context,
    transactions: Transactions,
    caller: Caller,
    session_id: str,
    new: NewSession,
    idem: Idempotency | None,
) -> Outcome[SessionView]:
    """Create a session.

    Raises:
        SessionExists: Its id is taken.
        LimitReached: There are `max_sessions`.
    """
    new = own(caller, new)

    def decide(writer: SessionWriter) -> Decision[SessionView]:
        if writer.head.seq:
            raise id_taken(session_id)
        return _creation(context, writer, new)

    prepare = _look_up(context, new)
    return await transactions.run(caller, session_id, decide, "make", prepare=prepare, idem=idem)


async def get_or_create(
    context: Context, transactions: Transactions, caller: Caller, session_id: str, new: NewSession
) -> SessionView:
    """Return the session of that id; create it if there is none."""
    new = own(caller, new)

    def decide(writer: SessionWriter) -> Decision[SessionView]:
        if writer.head.seq:
            return Decision([], view_of(context, writer.head))
        return _creation(context, writer, new)

    prepare = _look_up(context, new)
    return (await transactions.run(caller, session_id, decide, create=True, prepare=prepare)).answer


def _look_up(context: Context, new: NewSession) -> Prepare | None:
    """Return what looks up the quotas of stored sessions; None when there are no limits."""
    quotas = context.quotas.stored
    if not quotas.limits_creation:
        return None

    async def prepare(writer: SessionWriter) -> None:
        if not writer.head.seq:
            await quotas.look_up(new.user_id)
            await writer.ready()

    return prepare


def _creation(context: Context, writer: SessionWriter, new: NewSession) -> Decision[SessionView]:
    context.quotas.stored.check_sessions(new.user_id)
    draft = created_draft(new, context.settings.default_ttl_seconds)
    check_sizes(draft.fields)
    return answer_after(context, writer, [draft])


def answer_after(
    context: Context, writer: SessionWriter, drafts: list[Draft]
) -> Decision[SessionView]:
    """Return the decision that answers with the session as the drafts leave it."""
    head = writer.head.copy()
    now_ms = context.clock.now_ms()
    for kind, fields in drafts:
        fold(head, {"type": kind, "seq": head.seq + 1, **fields}, now_ms)
    return Decision(drafts, view_of(context, head))


async def update(
    transactions: Transactions,
    caller: Caller,
    session_id: str,
    patch: dict[str, Any],
    if_match: str | None,
) -> None:
    """Apply a JSON merge patch (RFC 7396).

    Raises:
        InvalidInput: The patch names a field that cannot be changed.
        PreconditionFailed: `if_match` is not the present ETag.
        TooLarge: `metadata` or `extension_data` would be over its limit.
    """

    def decide(writer: SessionWriter) -> Decision:
        head = writer.head
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

    await transactions.run(caller, session_id, decide)


def check_match(head: SessionHead, if_match: str | None) -> None:
    """Check that the session has the version that a change is for (RFC 9110, 13.1.1, strong).

    Raises:
        PreconditionFailed: `if_match` does not name the present version.
    """
    if if_match is None or if_match == "*":
        return
    if etag_of(head) not in {tag.strip() for tag in if_match.split(",")}:
        raise PreconditionFailed("The session was changed meanwhile; read it again.")


def merge_patch(target: Any, patch: Any) -> Any:
    """Return the target with a merge patch applied (RFC 7396). Neither argument is changed."""
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
    """Check the size of fields that every list and snapshot carries.

    Raises:
        TooLarge: `metadata` or `extension_data` is over its limit.
    """
    for name, most in _BYTES_MAX.items():
        if name in fields and len(encode(fields[name])) > most:
            raise TooLarge(
                f"`{name}` is larger than {most} bytes as JSON.", code="metadata-too-large"
            )


async def close(
    context: Context,
    transactions: Transactions,
    caller: Caller,
    session_id: str,
    idem: Idempotency | None,
) -> Outcome[SessionView]:
    """Close a session, so that it is read-only. A closed session stays as it is.

    Raises:
        RunActive: A run is executing or queued.
    """

    def decide(writer: SessionWriter) -> Decision[SessionView]:
        head = writer.head
        if head.logged_state == "closed":
            return Decision([], view_of(context, head))
        writer.check_not_busy("A run is executing or queued; cancel it first.")
        change = {"from": context.states.state_of(head), "to": "closed"}
        return answer_after(context, writer, [Draft("state_change", change)])

    return await transactions.run(caller, session_id, decide, idem=idem, accepts="closed")


async def reopen(
    context: Context,
    transactions: Transactions,
    caller: Caller,
    session_id: str,
    idem: Idempotency | None,
    ttl_seconds: int | Literal["keep"] | None = "keep",
) -> Outcome[SessionView]:
    """Open a closed or expired session; one that is open changes only its time to live.

    This opens an expired session too: the appended event is activity, from which the time to live
    is counted again.
    """

    def decide(writer: SessionWriter) -> Decision[SessionView]:
        head = writer.head
        drafts: list[Draft] = []
        state = context.states.state_of(head)
        if state == "expired" or head.logged_state == "closed":
            drafts.append(Draft("state_change", {"from": state, "to": "idle"}))
        if ttl_seconds not in {"keep", head.ttl_seconds}:
            drafts.append(Draft("session_updated", {"ttl_seconds": ttl_seconds}))
        decision = answer_after(context, writer, drafts)
        # What has expired meanwhile is closed now.
        return replace(decision, effects=(SlotFreed(transactions.registry, writer),))

    return await transactions.run(caller, session_id, decide, accepts="expired", idem=idem)


async def add_messages(
    context: Context,
    transactions: Transactions,
    caller: Caller,
    session_id: str,
    new: list[NewMessage],
    maker: Maker,
    names: ClientIds,
    idem: Idempotency | None,
) -> Outcome[MessagesAdded]:
    """Append messages, all or none.

    Args:
        context: Has the files that they may name.
        transactions: Runs the command.
        caller: Who calls.
        session_id: The session.
        new: The messages.
        maker: Makes their ids and times.
        names: Their ids, those that the client chose.
        idem: The request's idempotency key.

    Raises:
        MessageExists: The session has a message of one of the ids.
        Refused: The open tool calls need other messages, or results have no open call.
    """
    close = maker.close_passed_over
    messages: list[Message] = []

    async def prepare(writer: SessionWriter) -> None:
        named = await named_files(context, caller, writer, new)
        messages[:] = [maker.new_message(one) for one in named]
        await names.prepare(writer)

    def decide(writer: SessionWriter) -> Decision[MessagesAdded]:
        names.check(writer)
        head = writer.head
        if head.active is None:
            check_not_asked(head)
        if head.active and head.open_calls:
            # The run executes these calls, and their results come from the run.
            raise still_open(head.open_calls)
        ordered = in_order(head.open_calls, messages, close=close, all_answered=False)
        drafts = [*linked(head, [message_draft(message) for message in ordered])]
        by_id = {draft.fields["message_id"]: draft.fields["message"] for draft in drafts}
        shapes = [by_id[message.id] for message in messages]
        position = Position(writer.epoch, writer.head.seq + len(drafts))
        drafts += first_message_titles(context.settings.titles, head, ordered)
        return Decision(drafts, {"messages": shapes, "position": str(position)})

    return await transactions.run(caller, session_id, decide, idem=idem, prepare=prepare)
