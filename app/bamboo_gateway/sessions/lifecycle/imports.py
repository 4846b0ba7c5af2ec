"""Import: creates sessions from documents, our own and those of other tools."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

from anyio import to_thread

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.clock import parse_ms
from bamboo_gateway.domain.errors import BambooError, InvalidId, InvalidInput
from bamboo_gateway.domain.events import COUNT_MAX, Draft
from bamboo_gateway.domain.files import FILES_PER_SESSION_MAX
from bamboo_gateway.domain.ids import check_id
from bamboo_gateway.domain.message_assembler import MODEL_CHARS_MAX, message_draft
from bamboo_gateway.domain.messages import Message, distinct
from bamboo_gateway.domain.positions import Position
from bamboo_gateway.domain.sessions import SESSION_TYPES
from bamboo_gateway.domain.tool_order import settled
from bamboo_gateway.domain.usage_parts import PARTS_MAX, UsageParts
from bamboo_gateway.exporters.factory import read_import
from bamboo_gateway.exporters.imported import ImportedDocument, ImportedSession, Note
from bamboo_gateway.exporters.session_zip import SessionZip
from bamboo_gateway.sessions.access import owner_of_copy
from bamboo_gateway.sessions.answers import Imported, ImportedConversation
from bamboo_gateway.sessions.commands import Idempotency, Outcome
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.history import PAGE, bulk_limiter
from bamboo_gateway.sessions.lifecycle.bulk_creation import History, create_whole
from bamboo_gateway.sessions.lifecycle.fork import ANCESTORS_MAX
from bamboo_gateway.sessions.lifecycle.import_branches import BranchedHistory, closing_at_tip
from bamboo_gateway.sessions.lifecycle.imported_files import with_own_files
from bamboo_gateway.sessions.lifecycle.summaries import SUMMARY_CHARS_MAX
from bamboo_gateway.sessions.metadata import view_of
from bamboo_gateway.sessions.runs.factory import Maker
from bamboo_gateway.sessions.transaction import Transactions

_MERGES_MAX = 10_000
"""Merge sources that a document may name: each becomes part of the session's head."""


async def import_document(
    context: Context,
    transactions: Transactions,
    caller: Caller,
    data: bytes,
    *,
    format_name: str | None,
    conversation: int | None,
    keep_id: bool,
    maker: Maker,
    idem: Idempotency | None,
    source: SessionZip | None = None,
) -> Outcome[Imported]:
    """Create one session from a document: all of it, or nothing.

    Args:
        context: Has the store, the clock and the limits.
        transactions: Create the session.
        caller: Who imports.
        data: The document.
        format_name: Its format; None: detected from its content.
        conversation: Which of several conversations is meant, counted from 1.
        keep_id: Whether the session gets the id that the document names.
        maker: Makes its id otherwise.
        idem: The request's idempotency key.
        source: The zip that the document came in, with files.

    Raises:
        InvalidInput: The document has no known format, or does not hold a single conversation.
        SessionExists: The session's id is taken.
    """
    document = await _read(context, data, format_name)
    count = len(document.sessions)
    if conversation is None and count > 1:
        raise InvalidInput(
            f"The document has {count} conversations. Choose one with `conversation`, counted "
            "from 1, or `conversation=all`.",
            code="several-conversations",
        )
    number = conversation or 1
    if number > count:
        raise InvalidInput(f"The document holds {count} conversations.")
    make = _Import(
        context, transactions, caller, document, keep_id=keep_id, maker=maker, source=source
    )
    return await make.session(number, document.notes, idem)


async def import_zip(
    context: Context,
    transactions: Transactions,
    caller: Caller,
    file: BinaryIO,
    *,
    keep_id: bool,
    maker: Maker,
    idem: Idempotency | None,
) -> Outcome[Imported]:
    """Create one session from an export with files: all of it, or nothing.

    Raises:
        InvalidInput, TooLarge: The zip is damaged, no export, or larger than a session may be.
        LimitReached: There is no room for its files.
        SessionExists: The session's id is taken.
    """
    settings = context.settings

    def opened() -> SessionZip:
        return SessionZip(
            file,
            document_bytes_max=settings.max_body_bytes,
            file_bytes_max=settings.max_file_bytes,
            files_max=FILES_PER_SESSION_MAX,
        )

    source = await to_thread.run_sync(opened, limiter=bulk_limiter)
    return await import_document(
        context,
        transactions,
        caller,
        source.document,
        format_name=None,
        conversation=None,
        keep_id=keep_id,
        maker=maker,
        idem=idem,
        source=source,
    )


async def import_all(
    context: Context,
    transactions: Transactions,
    caller: Caller,
    data: bytes,
    *,
    format_name: str | None,
    keep_id: bool,
    maker: Maker,
    idem: Idempotency | None,
) -> AsyncGenerator[ImportedConversation]:
    """Begin to create a session from each conversation of a document, each by itself.

    The generator yields a result for each conversation in turn: `{conversation, of, notes,
    session}`, or `{conversation, of, notes, code, detail}`. The conversation *n* has the key
    `<key>#n`, so that a repeat makes only those that are missing.

    Raises:
        InvalidInput: The document has no known format.
    """
    document = await _read(context, data, format_name)

    make = _Import(context, transactions, caller, document, keep_id=keep_id, maker=maker)

    async def each() -> AsyncGenerator[ImportedConversation]:
        count = len(document.sessions)
        for number in range(1, count + 1):
            key = replace(idem, key=f"{idem.key}#{number}") if idem else None
            # A note names the conversation that it is about: all notes come with the first one.
            notes = document.notes if number == 1 else ()
            try:
                outcome = await make.session(number, notes, key)
            except BambooError as error:
                noted = [note.to_json() for note in notes]
                yield {
                    "conversation": number,
                    "of": count,
                    "notes": noted,
                    "code": error.code,
                    "detail": error.detail,
                }
                continue
            session = outcome.answer.copy()
            said = session.pop("notes")
            yield {"conversation": number, "of": count, "notes": said, "session": session}

    return each()


async def _read(context: Context, data: bytes, format_name: str | None) -> ImportedDocument:
    now_ms = context.clock.now_ms()
    return await to_thread.run_sync(
        lambda: read_import(data, format_name, now_ms=now_ms), limiter=bulk_limiter
    )


@dataclass(frozen=True, slots=True)
class _Import:
    """One document that a caller imports."""

    context: Context
    transactions: Transactions
    caller: Caller
    document: ImportedDocument
    keep_id: bool
    maker: Maker
    source: SessionZip | None = None

    async def session(
        self, number: int, notes: tuple[Note, ...], idem: Idempotency | None
    ) -> Outcome[Imported]:
        """Create the session of a conversation, counted from 1."""
        imported = self.document.sessions[number - 1]
        if self.keep_id and not imported.session.get("id"):
            raise InvalidInput("The document names no id that could be kept; use id=new.")
        _check_head(imported)
        branches_max = self.context.settings.max_branches
        if imported.branches is not None:
            BranchedHistory(imported.branches, branches_max)  # refuses wrong shapes
        is_own = self.document.format in {"json", "yaml"}
        asks = bool(imported.session.get("open_requests"))
        imported, closed = await to_thread.run_sync(
            # The last calls of one of our own sessions may still get their results, unless they
            # wait for people: nobody is asked in the copy.
            lambda: _settled(imported, at_end=not is_own or asks),
            limiter=bulk_limiter,
        )
        imported, renamed = await to_thread.run_sync(_distinct, imported, limiter=bulk_limiter)
        user_id = owner_of_copy(self.caller, imported.session.get("user_id"))

        async def prepared() -> History[Imported]:
            own, missing = await with_own_files(self.context, imported, user_id, self.source)
            all_notes = [note.to_json() for note in (*notes, *closed, *renamed, *missing)]
            return History(
                pages=lambda epoch: _history(own, user_id, epoch, branches_max),
                answer=lambda head: {**view_of(self.context, head), "notes": all_notes},
            )

        async def create(session_id: str) -> Outcome[Imported]:
            return await create_whole(
                self.context, self.transactions, self.caller, session_id, prepared, idem
            )

        if self.keep_id:
            return await create(imported.session["id"])
        return await self.maker.under_new_id(self.caller, idem, create)


def _settled(imported: ImportedSession, *, at_end: bool) -> tuple[ImportedSession, list[Note]]:
    """Close the tool calls that were passed over: agents cannot go on from such a history.

    A history with branches is one of ours, and has closed each tip that was left. Its last calls
    are those of the current branch.
    """
    if imported.branches is not None:
        if not at_end:
            return imported, []
        tail = closing_at_tip(imported.branches, imported.messages)
        shapes = [{**one.to_json(), "branch_id": imported.branches["current"]} for one in tail]
        return replace(imported, messages=[*imported.messages, *shapes]), _notes_of(tail)
    messages, added = settled(map(Message.of, imported.messages), at_end=at_end)
    if not added:
        return imported, []
    summary = imported.summary
    covered = summary.get("covers_messages") if summary is not None else None
    if summary is not None and covered:
        new = {id(message) for message in added}
        kept = [place for place, message in enumerate(messages, 1) if id(message) not in new]
        summary = summary | {"covers_messages": kept[min(covered, len(kept)) - 1]}
    shapes = [message.to_json() for message in messages]
    return replace(imported, messages=shapes, summary=summary), _notes_of(added)


def _notes_of(added: Sequence[Message]) -> list[Note]:
    """Return the note about messages that close calls; none without any."""
    if not added:
        return []
    return [closing_note([str(message.tool_call_id) for message in added[:3]], len(added))]


def _distinct(imported: ImportedSession) -> tuple[ImportedSession, list[Note]]:
    """Give new ids to messages whose id occurs before: a session has each id once."""
    if len({shape["id"] for shape in imported.messages}) == len(imported.messages):
        return imported, []
    if imported.branches is not None:
        raise InvalidInput("The export is not valid: two messages have the same id.")
    messages = distinct(map(Message.of, imported.messages))
    shapes = [message.to_json() for message in messages]
    renamed = [
        old["id"]
        for old, new in zip(imported.messages, shapes, strict=True)
        if old["id"] != new["id"]
    ]
    more = f" and {len(renamed) - 3} more" if len(renamed) > 3 else ""
    said = f"with an id that occurs before, now with a new id: {', '.join(renamed[:3])}{more}"
    return replace(imported, messages=shapes), [Note("messages", said)]


def closing_note(first: list[str], count: int) -> Note:
    """Return the note that tool calls without a result were closed; it names the first ones."""
    calls = ", ".join(first)
    more = f" and {count - len(first)} more" if count > len(first) else ""
    return Note("tool calls", f"without a result, now closed by one that says so: {calls}{more}")


async def _history(
    imported: ImportedSession,
    user_id: str | None,
    epoch: int,
    branches_max: int,
) -> AsyncIterator[list[Draft]]:
    session = imported.session
    kind = session.get("session_type")
    lineage = imported.lineage or {}
    created: dict[str, Any] = {
        "user_id": user_id,
        "title": session.get("title"),
        "session_type": kind if kind in SESSION_TYPES else "user",
        "working_dir": session.get("working_dir"),
        "metadata": session.get("metadata") or {},
        "extension_data": session.get("extension_data") or {},
        "ttl_seconds": session.get("ttl_seconds"),
        "created_at": session["created_at"],
        "parent": session.get("parent"),
        "ancestors": lineage.get("ancestors") or [],
        "merged_from": lineage.get("merged_from") or [],
        "usage_total": session.get("usage"),
    }
    if lineage.get("usage_parts"):
        created["usage_parts"] = UsageParts.of(lineage["usage_parts"]).to_json()
    yield [Draft("session_created", created)]
    branched = None
    if imported.branches is not None:
        branched = BranchedHistory(imported.branches, branches_max)
    for start in range(0, len(imported.messages), PAGE):
        page = imported.messages[start : start + PAGE]
        if branched is not None:
            yield list(branched.messages(page))
        else:
            yield [message_draft(Message.of(shape)) for shape in page]
    summary = imported.summary
    if branched is not None:
        yield list(branched.end(epoch))
    elif summary is not None:
        covered = summary.get("covers_messages")
        count = len(imported.messages) if covered is None else covered
        count = min(count, len(imported.messages))
        fields = {
            "summary": summary["summary"],
            "turn_count": summary.get("turn_count", 0),
            # `session_created` is the first event, the messages follow it without a gap.
            "position": str(Position(epoch, 1 + count)),
            "message_id": imported.messages[count - 1]["id"] if count else None,
            "message_seq": 1 + count if count else 0,
        }
        if "created_at" in summary:
            fields["created_at"] = summary["created_at"]
        yield [Draft("summary_saved", fields)]


def _check_head(imported: ImportedSession) -> None:
    """Check the members that lists, trees and folds use without a check of their own.

    Raises:
        InvalidInput: A member has a wrong shape; nothing of the document is stored.
    """
    session, lineage = imported.session, imported.lineage or {}
    _check("session.created_at", _is_time(session.get("created_at")))
    _check("session.parent", session.get("parent") is None or _is_link(session["parent"]))
    usage = session.get("usage") or {}
    _check("session.usage", isinstance(usage, dict) and all(map(_is_count, usage.values())))
    for name, most in (("ancestors", ANCESTORS_MAX), ("merged_from", _MERGES_MAX)):
        links = lineage.get(name) or []
        _check(f"lineage.{name}", isinstance(links, list) and len(links) <= most)
        _check(f"lineage.{name}", all(map(_is_link, links)))
    parts = lineage.get("usage_parts") or {}
    _check("lineage.usage_parts", isinstance(parts, dict) and all(map(_are_usages, parts.values())))
    summary = imported.summary
    if summary is None:
        return
    text = summary.get("summary")
    _check("summary.summary", isinstance(text, str) and 0 < len(text) <= SUMMARY_CHARS_MAX)
    _check("summary.turn_count", _is_count(summary.get("turn_count", 0)))
    _check("summary.covers_messages", _is_count(summary.get("covers_messages") or 0))
    _check("summary.created_at", "created_at" not in summary or _is_time(summary["created_at"]))


def _check(place: str, right: bool) -> None:
    if not right:
        errors = [{"loc": place.split("."), "msg": "has another shape than in an export"}]
        raise InvalidInput(f"The export is not valid: `{place}` has a wrong shape.", errors=errors)


def _is_link(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("session_id"), str):
        return False
    try:
        check_id(value["session_id"])
    except InvalidId:
        return False
    texts = ("title", "message_id", "position", "forked_at")
    return all(isinstance(value.get(name), str | None) for name in texts)


def _is_count(value: Any) -> bool:
    return value is None or (type(value) is int and 0 <= value <= COUNT_MAX)


def _are_usages(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= PARTS_MAX + 1
        and all(
            len(name) <= MODEL_CHARS_MAX
            and isinstance(usage, dict)
            and all(map(_is_count, usage.values()))
            for name, usage in value.items()
        )
    )


def _is_time(value: Any) -> bool:
    try:
        return isinstance(value, str) and parse_ms(value) >= 0
    except (ValueError, OverflowError):
        return False
