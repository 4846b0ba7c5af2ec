"""Export: a session as a document, many as a zip."""

import io
import zipfile
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

from anyio import to_thread
from typing_extensions import override

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.codec import decode
from bamboo_gateway.domain.errors import BambooError, InvalidInput
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.exporters.base import ExportSource
from bamboo_gateway.exporters.factory import make_exporter
from bamboo_gateway.exporters.names import content_disposition, file_name, folder_name
from bamboo_gateway.exporters.target import ExportDirectory
from bamboo_gateway.sessions.history import bulk_limiter, history_page
from bamboo_gateway.sessions.metadata import view_of
from bamboo_gateway.sessions.pool import SessionPool
from bamboo_gateway.sessions.runs.conversation import load_summary
from bamboo_gateway.storage.base import Record


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What is written, and how."""

    format: Literal["markdown", "json", "yaml"] = "markdown"
    include_metadata: bool = True
    include_tool_calls: bool = True


@dataclass(frozen=True, slots=True)
class Export:
    """A document on its way: what it is called (also as a `Content-Disposition`), and its bytes.

    Whoever takes the chunks closes them, also before their end; a document holds one page.
    """

    file_name: str
    disposition: str
    media_type: str
    chunks: AsyncGenerator[bytes]


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
) -> AsyncGenerator[list[dict[str, Any]]]:
    after = head.history_from
    while page := await history_page(pool.store, head, after=after, before=head.seq + 1):
        after = page[-1].seq
        decoding = to_thread.run_sync(_messages_of, page, limiter=bulk_limiter)
        # Nothing of a page stays here while its reader is slow, nor what is made of it.
        del page
        yield await decoding


def _messages_of(page: list[Record]) -> list[dict[str, Any]]:
    return [decode(body)["message"] for _, body in page]


async def _count(pool: SessionPool, head: SessionHead, upto: int) -> int:
    return await pool.store.count_marks(
        head.id, head.epoch, "message", after=head.history_from, before=upto + 1
    )


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
    async with aclosing(document.chunks) as chunks:
        size = await ExportDirectory(root.expanduser(), within).write(path, chunks)
    return {"path": path, "bytes": size}


ZIP_DISPOSITION = content_disposition("sessions.zip")


async def export_zip(
    pool: SessionPool, caller: Caller, session_ids: list[str], options: ExportOptions
) -> AsyncGenerator[bytes]:
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
        name = f"{number:04d}-{document.file_name}"
        with archive.open(name, "w", force_zip64=True) as file:
            try:
                async with aclosing(document.chunks) as chunks:
                    async for chunk in chunks:
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
