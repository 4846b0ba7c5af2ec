"""The files that an imported document names: kept, stored again, or replaced by words.

A document is a client's text: an id in it says nothing. A file stays when it belongs to the user of
the new session; one whose content comes with the document is stored again, for that user; of any
other the message keeps the name.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from anyio import to_thread

from bamboo_gateway.domain.errors import BambooError, InvalidInput
from bamboo_gateway.domain.files import (
    DEFAULT_TYPE,
    FILES_PER_SESSION_MAX,
    FileRecord,
    checked_media_type,
    safe_name,
)
from bamboo_gateway.exporters.imported import ImportedSession, Note
from bamboo_gateway.exporters.session_zip import SessionZip
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.file_shelf.shelf import too_many_files
from bamboo_gateway.sessions.files.uploads import store_content
from bamboo_gateway.sessions.history import bulk_limiter


async def with_own_files(
    context: Context, imported: ImportedSession, user_id: str | None, source: SessionZip | None
) -> tuple[ImportedSession, list[Note]]:
    """Return the session with the files that its user has, and a note about the others.

    Args:
        context: Has the store and the limits.
        imported: The session as the document has it.
        user_id: The user of the new session.
        source: The zip that has contents; None: the document came alone.

    Raises:
        InvalidInput, TooLarge: The zip is damaged, or not what it says.
        Refused: The session would name too many files.
        LimitReached: There is no room for the files.
    """
    if not any(True for shape in imported.messages for _ in _parts(shape)):
        return imported, []
    own = _OwnFiles(context, user_id, source)
    messages = [await own.renamed(shape) for shape in imported.messages]
    notes = []
    if own.missing:
        count = len(own.missing)
        named = ", ".join(sorted(own.missing)[:3]) + (" …" if count > 3 else "")
        notes = [Note("files", f"not in the import, now only named: {named}")]
    return replace(imported, messages=messages), notes


@dataclass(slots=True)
class _OwnFiles:
    context: Context
    user_id: str | None
    source: SessionZip | None
    found: dict[str, FileRecord] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)

    async def renamed(self, shape: dict[str, Any]) -> dict[str, Any]:
        """Return a message whose parts name files of the user, or no file."""
        if not any(True for _ in _parts(shape)):
            return shape
        content = []
        for part in shape["content"]:
            if not isinstance(part.get("file_id"), str):
                content.append(part)
                continue
            record = await self._record(part)
            if record is None:
                content.append(self._in_words(part))
            else:
                is_image = part["type"] == "image" and record.is_picture
                content.append(record.part("image" if is_image else "file"))
        return {**shape, "content": content}

    async def _record(self, part: dict[str, Any]) -> FileRecord | None:
        file_id, digest = part["file_id"], part.get("sha256")
        if file_id not in self.found:
            if len(self.found) >= FILES_PER_SESSION_MAX:
                raise too_many_files()
            record = await self.context.files.records.find(file_id) if len(file_id) <= 128 else None
            is_own = record is not None and record.user_id == self.user_id
            if record is None or not is_own or digest not in {None, record.sha256}:
                record = await self._stored(part, digest)
            if record is None:
                return None
            self.found[file_id] = record
        return self.found[file_id]

    async def _stored(self, part: dict[str, Any], digest: Any) -> FileRecord | None:
        source = self.source
        if source is None or not isinstance(digest, str) or not source.has(digest):
            return None
        pieces = source.pieces(digest)
        async with self.context.store.contents.writer() as writer:
            beginning = b""
            while piece := await to_thread.run_sync(pieces.next, limiter=bulk_limiter):
                beginning = beginning or piece
                await writer.write(piece)
            if await writer.finish() != digest:
                raise InvalidInput(f"The file {digest[:16]}… in the zip is not what its name says.")
            return await store_content(
                self.context, writer, self.user_id, _text(part, "name"), _type_of(part), beginning
            )

    def _in_words(self, part: dict[str, Any]) -> dict[str, Any]:
        kind = _type_of(part)
        name = safe_name(_text(part, "name"), kind)
        self.missing.add(name)
        return {"type": "text", "text": f"[{name}: {kind}, not in the import]"}


def _parts(shape: dict[str, Any]) -> Iterator[dict[str, Any]]:
    content = shape.get("content")
    if isinstance(content, list):
        yield from (part for part in content if isinstance(part.get("file_id"), str))


def _text(part: dict[str, Any], name: str) -> str | None:
    value = part.get(name)
    return value if isinstance(value, str) else None


def _type_of(part: dict[str, Any]) -> str:
    try:
        return checked_media_type(_text(part, "media_type"))
    except BambooError:
        return DEFAULT_TYPE
