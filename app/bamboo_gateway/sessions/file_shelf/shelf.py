"""`FileShelf`: the files of all sessions, as commands use them before they decide.

Everything that makes or removes a file, or a reference to one, holds the lock of its content. So a
deletion and a message that names the file come one after the other: the message is refused, or the
deletion is.
"""

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.domain.errors import InvalidInput, Refused
from bamboo_gateway.domain.files import (
    FILES_PER_SESSION_MAX,
    FileRecord,
    files_in,
)
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.sessions.file_shelf.locks import NamedLocks
from bamboo_gateway.sessions.file_shelf.records import (
    FileRecords,
    changed,
    content_of,
    referred,
    removed,
)
from bamboo_gateway.sessions.file_shelf.usage import FileUsage
from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.files.base import ContentName

REFERENCE_FRESH_MS: Final = 5 * 60 * 1000
"""How long a reference counts although no message bears it out: the message may be on its way."""

Content = str | list[dict[str, Any]]
MayName = Callable[[FileRecord], bool]
"""Whether a message may name a file that the session does not name yet."""


class FileShelf:
    """The files, and who names them.

    Attributes:
        records: Their records and references.
        usage: The bytes that they take.
        locks: Held by content (`records.content_of`) for each change of a file.
    """

    def __init__(self, store: SessionStore, clock: Clock) -> None:
        self.records = FileRecords(store)
        self.usage = FileUsage(store, clock)
        self.locks = NamedLocks(store)
        self._store = store
        self._clock = clock

    async def look_up(
        self,
        session_id: str,
        named_before: Collection[str],
        ids: Iterable[str],
        may_name: MayName,
    ) -> dict[str, FileRecord]:
        """Return those of the files that messages of a session may name.

        On return a reference to each of them is durable. `resolved` refuses the others.

        Args:
            session_id: The session that gets the messages; it may not exist yet.
            named_before: The files that it names already (`SessionHead.files`).
            ids: The files that the messages name.
            may_name: Whether a file that it does not name yet may be named.

        Raises:
            Refused: The session would name too many files.
        """
        wanted = list(dict.fromkeys(ids))
        if len({*named_before, *wanted}) > FILES_PER_SESSION_MAX:
            raise too_many_files()
        found = [record for one in wanted if (record := await self.records.find(one)) is not None]
        allowed = [one for one in found if one.id in named_before or may_name(one)]
        gone = await self._refer(allowed, session_id, named_before)
        return {record.id: record for record in allowed if record.id not in gone}

    async def named(
        self,
        session_id: str,
        named_before: Collection[str],
        contents: Sequence[Content],
        may_name: MayName,
    ) -> list[Content]:
        """Return messages' contents with all members of the parts that name files (`look_up`).

        Without such parts nothing is read.

        Raises:
            InvalidInput: A file is unknown, or is no picture and an `image` part names it.
            Refused: The session would name too many files.
        """
        ids = [one for content in contents for one in files_in(content)]
        if not ids:
            return list(contents)
        known = await self.look_up(session_id, named_before, ids, may_name)
        return [resolved(content, known) for content in contents]

    async def keep(self, head: SessionHead, named_before: Collection[str] = ()) -> None:
        """Write references to the files that a session will name once it is published.

        Files that are gone are left out: the messages that name them are copied all the same.

        Raises:
            Refused: The session would name too many files.
        """
        if len(head.files) > FILES_PER_SESSION_MAX:
            raise too_many_files()
        found = [await self.records.find(one) for one in head.files if one not in named_before]
        await self._refer([one for one in found if one is not None], head.id, ())

    async def _refer(
        self, records: Collection[FileRecord], session_id: str, named_before: Collection[str]
    ) -> set[str]:
        """Write references, and return the files that are gone."""
        new = [record for record in records if record.id not in named_before]
        gone: set[str] = set()
        if not new:
            return gone
        async with self.locks.hold(map(content_of, new)):
            changes = []
            for record in new:
                # As of now, under the lock: it may have been deleted since it was looked up.
                present = await self.records.find(record.id)
                if present is None:
                    gone.add(record.id)
                    continue
                changes.append(referred(record.id, session_id, self._clock.now_ms()))
                if present.unnamed_since is not None:
                    changes.append(changed(replace(present, unnamed_since=None)))
            await self.records.write(changes)
        return gone

    async def naming(self, file_id: str) -> AsyncIterator[SessionHead]:
        """Iterate over the durable heads of the sessions that name a file."""
        after = ""
        while page := await self.records.references(file_id, after):
            for session_id, _ in page:
                head = await self._store.load(session_id)
                if head is not None and file_id in head.files:
                    yield head
            after = page[-1][0]

    async def is_named(self, file_id: str) -> bool:
        """Return whether a session names a file, or may be about to."""
        after, oldest = "", self._clock.now_ms() - REFERENCE_FRESH_MS
        while page := await self.records.references(file_id, after):
            if any(at > oldest for _, at in page):
                return True
            after = page[-1][0]
        async for _ in self.naming(file_id):
            return True
        return False

    async def remove(self, record: FileRecord) -> int:
        """Remove a file, whoever names it. Its lock is held. Return the bytes freed."""
        changes = removed(record)
        after = ""
        while page := await self.records.references(record.id, after):
            changes += [referred(record.id, session_id, None) for session_id, _ in page]
            after = page[-1][0]
        await self.records.write(changes)
        return await self.free(record)

    async def free(self, record: FileRecord) -> int:
        """Delete a content that no file has any more. Its lock is held. Return the bytes freed."""
        name = content_of(record)
        if await self.records.has_content(name):
            return 0
        return await self.delete_content(name)

    async def delete_content(self, name: ContentName) -> int:
        """Delete a content, and count it. Its lock is held. Return the bytes freed."""
        async with self.usage.changing():
            # An empty content frees nothing, and counts as one.
            is_there = await self._store.contents.size(name) is not None
            size = await self._store.contents.delete(name)
            self.usage.add(name.owner, -int(is_there), -size)
        return size

    async def delete_strays(self, owner: str | None = None) -> list[int]:
        """Delete the contents that no file has, of one owner or of all.

        An upload that ended between content and record leaves one.

        Returns:
            The bytes that each has freed.
        """
        freed: list[int] = []
        after = None if owner is None else ContentName(owner, "")
        while page := await self._store.contents.contents(after):
            for one in page:
                if owner not in {None, one.name.owner}:
                    return freed
                if await self.records.has_content(one.name):
                    continue
                async with self.locks.hold([one.name]):
                    # An upload holds the lock from before the content to after the record.
                    if not await self.records.has_content(one.name):
                        freed.append(await self.delete_content(one.name))
            after = page[-1].name
        return freed


def too_many_files() -> Refused:
    """Return the refusal of more files than a session may name."""
    return Refused(
        f"A session names at most {FILES_PER_SESSION_MAX} files. Begin another session.",
        code="too-many-files",
    )


def unknown_file(file_id: str) -> InvalidInput:
    """Return the one error for a file that does not exist, and for one of somebody else."""
    return InvalidInput(
        f"A message names the file {file_id[:64]!r}, which does not exist or is not yours. Upload "
        "it first.",
        code="unknown-file",
        extra={"file_id": file_id[:64]},
    )


def resolved(content: Content, known: Mapping[str, FileRecord]) -> Content:
    """Return a message's content with all members of the parts that name files.

    Args:
        content: The content as it was sent.
        known: The files that it may name (`FileShelf.look_up`).

    Raises:
        InvalidInput: It names another file, or one that is no picture in an `image` part.
    """
    if isinstance(content, str):
        return content
    parts = []
    for part in content:
        file_id = part.get("file_id")
        if not isinstance(file_id, str):
            parts.append(part)
            continue
        record = known.get(file_id)
        if record is None:
            raise unknown_file(file_id)
        kind = "image" if part.get("type") == "image" else "file"
        if kind == "image" and not record.is_picture:
            raise InvalidInput(
                f"The file {record.id!r} is {record.media_type}, no picture that is shown. Name it "
                "in a part of type `file`.",
                code="not-an-image",
            )
        parts.append(record.part(kind))
    return parts
