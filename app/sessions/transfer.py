"""Export and import: a session as a document, and documents as sessions."""

import io
import zipfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from anyio import to_thread
from typing_extensions import override

from app.domain.assembly import message_draft
from app.domain.callers import Caller
from app.domain.clock import parse_ms
from app.domain.codec import decode
from app.domain.errors import BambooError, InvalidId, InvalidInput
from app.domain.events import Draft
from app.domain.ids import check_id
from app.domain.messages import Message
from app.domain.sessions import SESSION_TYPES, SessionHead
from app.exporters.base import ExportSource
from app.exporters.factory import make_exporter
from app.exporters.imported import ImportedSession
from app.exporters.importing import read_import
from app.exporters.names import content_disposition, file_name, folder_name
from app.exporters.target import ExportDirectory
from app.sessions.access import owner_of_copy
from app.sessions.commands import Idempotency, Outcome
from app.sessions.creation import PAGE, History, bulk_limiter, create_whole, history_page
from app.sessions.fork import ANCESTORS_MAX
from app.sessions.pool import SessionPool
from app.sessions.summaries import SUMMARY_CHARS_MAX, load_summary
from app.sessions.writing import view_of

_MERGES_MAX = 10_000
"""Sources that a document may name; each is part of the session's head from then on."""


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What is written, and how."""

    format: Literal["markdown", "json", "yaml"] = "markdown"
    include_metadata: bool = True
    include_tool_calls: bool = True


@dataclass(frozen=True, slots=True)
class Export:
    """A document on its way: what it is called (also as a `Content-Disposition`), and its bytes."""

    file_name: str
    disposition: str
    media_type: str
    chunks: AsyncIterator[bytes]


async def export(
    pool: SessionPool, caller: Caller, session_id: str, options: ExportOptions
) -> Export:
    """Begins to write one session, archived ones too.

    Raises:
        NotFound, SessionExpired: There is none, or not any more.
    """
    exporter = make_exporter(options.format)

    async def look(head: SessionHead) -> tuple[SessionHead, dict[str, Any] | None]:
        summary = await load_summary(pool.store, head)
        if summary is not None and head.summary is not None:
            # Positions are another log's after an import; how many messages are covered holds.
            summary["covers_messages"] = await _count(pool, head, head.summary.covers_seq)
        return head, summary

    head, summary = await pool.read(caller, session_id, look, "read")
    view = view_of(pool, head)
    source = ExportSource(
        session=view,
        messages=_message_pages(pool, head),
        summary=summary,
        lineage={"ancestors": head.ancestors, "merged_from": head.merged_from},
        include_metadata=options.include_metadata,
        include_tool_calls=options.include_tool_calls,
    )
    name = file_name(view, exporter.suffix)
    chunks = exporter.stream(source, limiter=bulk_limiter)
    return Export(name, content_disposition(name), exporter.media_type, chunks)


async def _message_pages(
    pool: SessionPool, head: SessionHead
) -> AsyncIterator[list[dict[str, Any]]]:
    after = head.history_from
    while bodies := await history_page(pool, head, after=after, before=head.seq + 1):
        yield await to_thread.run_sync(_messages_of, bodies, limiter=bulk_limiter)
        after = decode(bodies[-1])["seq"]


def _messages_of(bodies: list[bytes]) -> list[dict[str, Any]]:
    return [decode(body)["message"] for body in bodies]


async def _count(pool: SessionPool, head: SessionHead, upto: int) -> int:
    count, after = 0, head.history_from
    while page := await pool.store.find(
        head.id, head.epoch, "message", after=after, before=upto + 1, limit=1000
    ):
        count += len(page)
        after = page[-1].seq
    return count


async def export_to_file(
    pool: SessionPool, caller: Caller, session_id: str, options: ExportOptions, path: str
) -> dict[str, Any]:
    """Writes one session to a file under `export_dir`, whole or not at all.

    Users have a folder each, `users/<user>` below it, that their paths are relative to.

    Raises:
        InvalidInput: No `export_dir` is set, or `path` is no plain relative path.
    """
    await pool.head(caller, session_id)  # reading it is not enough to write files here
    root = pool.settings.export_dir
    if root is None:
        raise InvalidInput(
            "No export_dir is set; set it, or export to the response.", code="no-export-dir"
        )
    document = await export(pool, caller, session_id, options)
    within = () if caller.user_id is None else ("users", folder_name(caller.user_id))
    size = await ExportDirectory(root.expanduser(), within).write(path, document.chunks)
    return {"path": path, "bytes": size}


ZIP_DISPOSITION = content_disposition("sessions.zip")


async def export_zip(
    pool: SessionPool, caller: Caller, session_ids: list[str], options: ExportOptions
) -> AsyncIterator[bytes]:
    """Writes many sessions as a zip, as it goes; those that fail are named in `errors.txt`."""
    buffer = ZipBuffer()
    archive = zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, allowZip64=True)
    failed: list[str] = []
    for number, session_id in enumerate(session_ids, 1):
        try:
            document = await export(pool, caller, session_id, options)
        except BambooError as error:
            failed.append(f"{session_id}: {error.detail} ({error.code})\n")
            continue
        with archive.open(f"{number:04d}-{document.file_name}", "w", force_zip64=True) as file:
            try:
                async for chunk in document.chunks:
                    await to_thread.run_sync(file.write, chunk, limiter=bulk_limiter)
                    if data := buffer.take():
                        yield data
            except BambooError as error:
                failed.append(f"{session_id}: cut off: {error.detail} ({error.code})\n")
    if failed:
        archive.writestr("errors.txt", "".join(failed))
    archive.close()
    yield buffer.take()


class ZipBuffer(io.RawIOBase):
    """What a zip is written to and taken from: it cannot be sought, so the zip is streamed."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    @override
    def writable(self) -> bool:
        return True

    @override
    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        """Gives what was written since."""
        parts, self._parts = self._parts, []
        return b"".join(parts)


async def import_document(
    pool: SessionPool,
    caller: Caller,
    data: bytes,
    *,
    format_name: str | None,
    conversation: int | None,
    keep_id: bool,
    new_id: str,
    idem: Idempotency | None,
) -> Outcome:
    """Makes a session of a document: all of it, or nothing.

    Args:
        pool: Where it goes.
        caller: Who imports.
        data: The document.
        format_name: What it is; None: its content tells.
        conversation: Which of a document with several is meant, from 1.
        keep_id: Whether the session gets the id that the document names.
        new_id: Its id otherwise.
        idem: The request's idempotency key.

    Raises:
        InvalidInput: It is none of the documents that are read, or holds no single session.
        SessionExists: Its id is taken.
    """
    now_ms = pool.clock.now_ms()
    document = await to_thread.run_sync(
        lambda: read_import(data, format_name, now_ms=now_ms), limiter=bulk_limiter
    )
    imported = _chosen(document.sessions, conversation)
    session_id = new_id
    if keep_id:
        if not imported.session.get("id"):
            raise InvalidInput("The document names no id that could be kept; use id=new.")
        session_id = imported.session["id"]
    notes = [note.to_json() for note in document.notes]
    _check_head(imported)
    user_id = owner_of_copy(caller, imported.session.get("user_id"))
    history = History(
        pages=lambda epoch: _history(imported, user_id, epoch),
        answer=lambda head: view_of(pool, head) | {"notes": notes},
    )
    return await create_whole(pool, caller, session_id, history, idem)


def _chosen(sessions: Sequence[ImportedSession], conversation: int | None) -> ImportedSession:
    if conversation is None and len(sessions) > 1:
        # One import is one session, whole or not at all.
        raise InvalidInput(
            f"The document holds {len(sessions)} conversations; name one with `conversation`, "
            "counted from 1.",
            code="several-conversations",
        )
    number = conversation or 1
    if not 1 <= number <= len(sessions):
        raise InvalidInput(f"The document holds {len(sessions)} conversations.")
    return sessions[number - 1]


async def _history(
    imported: ImportedSession, user_id: str | None, epoch: int
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
    yield [Draft("session_created", created)]
    for start in range(0, len(imported.messages), PAGE):
        page = imported.messages[start : start + PAGE]
        yield [message_draft(Message.of(shape)) for shape in page]
    summary = imported.summary
    if summary is not None:
        covered = summary.get("covers_messages")
        count = len(imported.messages) if covered is None else covered
        fields = {
            "summary": summary["summary"],
            "turn_count": summary.get("turn_count", 0),
            # `session_created` is the first event, the messages follow it without a gap.
            "position": f"{epoch}-{1 + min(count, len(imported.messages))}",
        }
        if "created_at" in summary:
            fields["created_at"] = summary["created_at"]
        yield [Draft("summary_saved", fields)]


def _check_head(imported: ImportedSession) -> None:
    """Checks what every list, tree and fold takes as it is.

    Raises:
        InvalidInput: A document says something else there; nothing of it is stored.
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
        errors = [{"loc": place.split("."), "msg": "is not what an export of Bamboo has there"}]
        raise InvalidInput(f"Not a whole export: `{place}` is not right.", errors=errors)


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
    return value is None or (type(value) is int and 0 <= value < 1 << 53)


def _is_time(value: Any) -> bool:
    try:
        return isinstance(value, str) and parse_ms(value) >= 0
    except (ValueError, OverflowError):
        return False
