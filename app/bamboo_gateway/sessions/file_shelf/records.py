"""Records and references of files, as small values of the session store."""

from collections.abc import AsyncIterator, Callable
from hashlib import sha256
from typing import Any, Final

from bamboo_gateway.domain.codec import decode, encode
from bamboo_gateway.domain.files import FileRecord
from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.files.base import ContentName
from bamboo_gateway.storage.reports import ValueChange

RECORD: Final = "file"
"""Records, by `<file id>`."""
OWNED: Final = "file-owner"
"""The same, found by owner: `<owner>/<file id>`."""
NAMED: Final = "file-content"
"""The files that have a content: `<owner>/<digest>/<file id>`."""
REFERENCE: Final = "file-session"
"""References, by `<file id>/<session id>`; the value has the time when it was written."""
KEPT: Final = "file-key"
"""First answers to idempotency keys, with the owner of the file."""

_PAGE: Final = 500
_THERE: Final = b"1"


def owner_key(user_id: str | None) -> str:
    """Return the key of a user's files: 32 hexadecimal digits, whatever the id is made of."""
    return "0" * 32 if user_id is None else sha256(user_id.encode()).hexdigest()[:32]


def content_of(record: FileRecord) -> ContentName:
    """Return the name of a file's content."""
    return ContentName(owner_key(record.user_id), record.sha256)


class FileRecords:
    """Reads the values of files, and makes the changes that write them."""

    def __init__(self, store: SessionStore) -> None:
        self._store = store

    async def write(self, changes: list[ValueChange]) -> None:
        """Write changes, all or none, durably."""
        if changes:
            await self._store.write_values(changes)

    async def find(self, file_id: str) -> FileRecord | None:
        """Return a file, or None."""
        value = await self._store.value(RECORD, file_id)
        return None if value is None else _record_of(decode(value))

    async def each(self, prefix: str = "", after: str = "") -> AsyncIterator[FileRecord]:
        """Iterate over all files, by id."""
        while page := await self._store.values(RECORD, prefix=prefix, after=after, limit=_PAGE):
            for _, value in page:
                yield _record_of(decode(value))
            after = page[-1][0]

    async def page(
        self, user_id: str | None, after: str, limit: int, *, all_users: bool
    ) -> list[FileRecord]:
        """Return the files of a user, or of all, that follow the file `after`, by id."""
        if all_users:
            values = await self._store.values(RECORD, after=after, limit=limit)
            return [_record_of(decode(value)) for _, value in values]
        owner = owner_key(user_id) + "/"
        values = await self._store.values(
            OWNED, prefix=owner, after=owner + after if after else "", limit=limit
        )
        found = [await self.find(key.removeprefix(owner)) for key, _ in values]
        return [record for record in found if record is not None]

    async def has_content(self, name: ContentName) -> bool:
        """Return whether a file has this content."""
        prefix = f"{name.owner}/{name.digest}/"
        return bool(await self._store.values(NAMED, prefix=prefix, limit=1))

    async def references(
        self, file_id: str, after: str = "", limit: int = _PAGE
    ) -> list[tuple[str, int]]:
        """Return the sessions that a file is referred to from, by id, and since when."""
        prefix = file_id + "/"
        page = await self._store.values(
            REFERENCE, prefix=prefix, after=prefix + after if after else "", limit=limit
        )
        return [(key.removeprefix(prefix), int(decode(value))) for key, value in page]

    async def forget_keys(self, of: Callable[[dict[str, Any]], bool]) -> None:
        """Remove those first answers to idempotency keys for which `of` holds."""
        after = ""
        while page := await self._store.values(KEPT, after=after, limit=_PAGE):
            await self.write(
                [ValueChange(KEPT, key, None) for key, value in page if of(decode(value))]
            )
            after = page[-1][0]


def added(record: FileRecord) -> list[ValueChange]:
    """Return the changes that add a file."""
    content = content_of(record)
    return [
        changed(record),
        ValueChange(OWNED, f"{content.owner}/{record.id}", _THERE),
        ValueChange(NAMED, f"{content.owner}/{content.digest}/{record.id}", _THERE),
    ]


def changed(record: FileRecord) -> ValueChange:
    """Return the change that writes a record again."""
    return ValueChange(RECORD, record.id, encode(_shape_of(record)))


def removed(record: FileRecord) -> list[ValueChange]:
    """Return the changes that remove a file, without its references."""
    content = content_of(record)
    return [
        ValueChange(RECORD, record.id, None),
        ValueChange(OWNED, f"{content.owner}/{record.id}", None),
        ValueChange(NAMED, f"{content.owner}/{content.digest}/{record.id}", None),
    ]


def referred(file_id: str, session_id: str, now_ms: int | None) -> ValueChange:
    """Return the change that writes a reference, or with None removes it."""
    value = None if now_ms is None else encode(now_ms)
    return ValueChange(REFERENCE, f"{file_id}/{session_id}", value)


def _shape_of(record: FileRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "user_id": record.user_id,
        "name": record.name,
        "media_type": record.media_type,
        "size": record.size,
        "sha256": record.sha256,
        "created_at": record.created_at,
        "unnamed_since": record.unnamed_since,
    }


def _record_of(shape: dict[str, Any]) -> FileRecord:
    return FileRecord(**{name: shape[name] for name in FileRecord.__slots__})
