"""Export: one session as a document, or many as a zip."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from anyio import to_thread

from bamboo_gateway.domain import paths
from bamboo_gateway.domain.branch_folds import known_summaries
from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.clock import format_ms
from bamboo_gateway.domain.codec import decode
from bamboo_gateway.domain.errors import InvalidInput
from bamboo_gateway.domain.files import files_in
from bamboo_gateway.domain.paths import branches_of, every_path, path_of
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.domain.usage_parts import UsageParts
from bamboo_gateway.exporters.base import Export, ExportSource
from bamboo_gateway.exporters.factory import make_exporter
from bamboo_gateway.exporters.names import content_disposition, file_name, folder_name
from bamboo_gateway.exporters.session_zip import ExportedFile, stream_session_zip
from bamboo_gateway.exporters.sessions_zip import stream_zip
from bamboo_gateway.exporters.target import ExportDirectory
from bamboo_gateway.sessions.answers import Exported
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.files.downloads import read_content
from bamboo_gateway.sessions.history import bulk_limiter, count_on_path, history_page
from bamboo_gateway.sessions.metadata import view_of
from bamboo_gateway.sessions.registry import SessionRegistry
from bamboo_gateway.sessions.runs.conversation import load_summary
from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.commits import Record


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """The format of a document, and what it includes."""

    format: Literal["markdown", "json", "yaml"] = "markdown"
    include_metadata: bool = True
    include_tool_calls: bool = True
    include_files: bool = False


async def export(
    context: Context,
    registry: SessionRegistry,
    caller: Caller,
    session_id: str,
    options: ExportOptions,
) -> Export:
    """Begin to write one session, which may be archived.

    Raises:
        NotFound: There is no such session.
        SessionExpired: The session has expired.
    """
    exporter = make_exporter(options.format)

    async def look(head: SessionHead) -> tuple[SessionHead, Mapping[str, Any] | None]:
        summary = await load_summary(context.store, head)
        if summary is not None and head.summary is not None:
            # Positions mean nothing after an import; the number of messages still does.
            covered = await _count(context.store, head, head.summary.end_seq)
            return head, {**summary, "covers_messages": covered}
        return head, None

    head, summary = await registry.read(caller, session_id, look, "read")
    view = view_of(context, head)
    is_whole = options.include_metadata and options.include_tool_calls
    # What is left out of a document could be the message that a branch begins behind.
    has_all = bool(head.branches) and is_whole and options.format != "markdown"
    pages = _message_pages(context.store, head, every_path(head) if has_all else None)
    lineage: dict[str, Any] = {"ancestors": head.ancestors, "merged_from": head.merged_from}
    if head.usage_parts != UsageParts():
        lineage["usage_parts"] = head.usage_parts.to_json()
    source = ExportSource(
        session=view,
        messages=_with_digests(context, pages),
        summary=summary,
        branches=await _branches(context.store, head) if has_all else None,
        lineage=lineage,
        include_metadata=options.include_metadata,
        include_tool_calls=options.include_tool_calls,
    )
    name = file_name(view, exporter.suffix)
    chunks = exporter.stream(source, limiter=bulk_limiter)
    document = Export(name, content_disposition(name), exporter.media_type, chunks)
    if not options.include_files:
        return document
    name = file_name(view, ".zip")
    files = _files_of(context, head)
    zipped = stream_session_zip(document, files, bulk_limiter)
    return Export(name, content_disposition(name), "application/zip", zipped)


async def _files_of(context: Context, head: SessionHead) -> AsyncGenerator[ExportedFile]:
    for file_id in head.files:
        record = await context.files.records.find(file_id)
        if record is not None:
            pieces = partial(read_content, context, record, 0, record.size)
            yield ExportedFile(record.sha256, pieces)


async def _with_digests(
    context: Context, pages: AsyncGenerator[list[dict[str, Any]]]
) -> AsyncGenerator[list[dict[str, Any]]]:
    """Add the digest of its content to each part that names a file: an id means nothing elsewhere.

    A file that is gone has none.
    """
    known: dict[str, str | None] = {}
    async with aclosing(pages):
        async for page in pages:
            for message in page:
                for file_id in files_in(message["content"]):
                    if file_id not in known:
                        record = await context.files.records.find(file_id)
                        known[file_id] = record.sha256 if record is not None else None
                for part in message["content"] if known else ():
                    if isinstance(part, dict) and (digest := known.get(part.get("file_id", ""))):
                        part["sha256"] = digest
            yield page


async def _message_pages(
    store: SessionStore, head: SessionHead, path: paths.Path | None
) -> AsyncGenerator[list[dict[str, Any]]]:
    after = head.history_from
    while page := await history_page(store, head, after=after, before=head.seq + 1, path=path):
        after = page[-1].seq
        decoding = to_thread.run_sync(_messages_of, page, limiter=bulk_limiter)
        # While the consumer is slow, this generator holds neither the page nor what is made of it.
        del page
        yield await decoding


def _messages_of(page: list[Record]) -> list[dict[str, Any]]:
    return [decode(body)["message"] for _, body in page]


async def _count(store: SessionStore, head: SessionHead, upto: int) -> int:
    return await count_on_path(store, head, path_of(head), head.history_from, upto + 1)


async def _branches(store: SessionStore, head: SessionHead) -> dict[str, Any]:
    """Return what a document says of the branches (`exporters.document`)."""
    summaries: list[dict[str, Any]] = []
    for ref in known_summaries(head):
        saved = await load_summary(store, head, ref)
        assert saved is not None  # it was asked for by its reference
        kept = ("summary", "turn_count", "message_id", "created_at")
        summaries.append({name: value for name, value in saved.items() if name in kept})
    branches = [
        {
            "branch_id": branch.id,
            "parent_branch_id": branch.parent_id,
            "from_message_id": branch.from_id,
            "created_at": format_ms(branch.created_at),
        }
        for branch in branches_of(head)
    ]
    return {"current": head.branch_id, "branches": branches, "summaries": summaries}


async def export_to_file(
    context: Context,
    registry: SessionRegistry,
    caller: Caller,
    session_id: str,
    options: ExportOptions,
    path: str,
) -> Exported:
    """Write one session to a file under `export_dir`, whole or not at all.

    Each user has a folder below it, `users/<user>`, and the user's paths are relative to that.

    Raises:
        InvalidInput: No `export_dir` is set, or `path` is no plain relative path.
    """
    await registry.head(caller, session_id)  # who may only read it may not write files here
    root = context.settings.export_dir
    if root is None:
        raise InvalidInput(
            "This gateway has no export_dir. Leave out `path`.", code="no-export-dir"
        )
    document = await export(context, registry, caller, session_id, options)
    directory = _directory_of(root, caller.user_id)
    async with aclosing(document.chunks) as chunks:
        size = await directory.write(path, chunks)
    return {"path": path, "bytes": size}


async def remove_exports(context: Context, user_id: str, *, dry_run: bool = False) -> int:
    """Remove the files that a user has exported to `export_dir`; return their number.

    Raises:
        StorageFailed: Some of them are still there.
    """
    root = context.settings.export_dir
    return 0 if root is None else await _directory_of(root, user_id).remove(dry_run=dry_run)


def _directory_of(root: Path, user_id: str | None) -> ExportDirectory:
    within = () if user_id is None else ("users", folder_name(user_id))
    return ExportDirectory(root.expanduser(), within)


ZIP_DISPOSITION = content_disposition("sessions.zip")


def export_zip(
    context: Context,
    registry: SessionRegistry,
    caller: Caller,
    session_ids: list[str],
    options: ExportOptions,
) -> AsyncGenerator[bytes]:
    """Yield many sessions as a zip, in pieces. Its `errors.txt` names those that failed."""
    sessions = (
        (session_id, partial(export, context, registry, caller, session_id, options))
        for session_id in session_ids
    )
    return stream_zip(sessions, bulk_limiter)
