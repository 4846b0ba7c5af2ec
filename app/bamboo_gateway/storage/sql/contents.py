"""Contents as rows of a database: those of `postgresql:`, so that nothing else has to be reached.

A content is one row that names an upload, and the upload's pieces, a row each. Pieces are written
in transactions of their own, and are invisible until one that writes the content's row publishes
them; so no statement ever holds more than a piece. The id of an upload begins with that of the
process that receives it. The uploads of processes that are not there any more are removed at each
start, and a content is not published when its process is one that the others took for dead.
"""

import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from hashlib import sha256
from typing import Final, TypeVar

import anyio
from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    bindparam,
    delete,
    func,
    insert,
    select,
    tuple_,
)
from typing_extensions import override

from bamboo_gateway.domain.errors import BambooError, Unavailable
from bamboo_gateway.storage.files.base import (
    PIECE_BYTES,
    ContentLost,
    ContentName,
    ContentStore,
    ContentWriter,
    StoredContent,
)
from bamboo_gateway.storage.sql.database import Connection, Database
from bamboo_gateway.storage.threads import Threads

_THREADS = 2
"""Fewer than the connections of the pool by far: large files delay no commit and no read (R7)."""

# Not in the metadata of the other tables: a SQLite file has its contents beside it.
files_metadata: Final = MetaData()
_AsciiText: Final = Text(collation="C")

contents = Table(
    "file_contents",
    files_metadata,
    Column("owner", _AsciiText, nullable=False),
    Column("digest", _AsciiText, nullable=False),
    Column("upload", _AsciiText, nullable=False),
    Column("size", BigInteger, nullable=False),
    PrimaryKeyConstraint("owner", "digest", name="pk_file_contents"),
    Index("ix_file_contents_upload", "upload", unique=True),
)
pieces = Table(
    "file_pieces",
    files_metadata,
    Column("upload", _AsciiText, nullable=False),
    Column("number", Integer, nullable=False),
    # All but the last piece of an upload have `PIECE_BYTES`.
    Column("body", LargeBinary, nullable=False),
    PrimaryKeyConstraint("upload", "number", name="pk_file_pieces"),
)

_NAMED = (contents.c.owner == bindparam("of")) & (contents.c.digest == bindparam("named"))
_FIND = select(contents.c.upload, contents.c.size).where(_NAMED)
_FIND_LOCKED = _FIND.with_for_update()
_LIST = (
    select(contents.c.owner, contents.c.digest, contents.c.size)
    .where(
        tuple_(contents.c.owner, contents.c.digest) > tuple_(bindparam("of"), bindparam("named"))
    )
    .order_by(contents.c.owner, contents.c.digest)
    .limit(bindparam("most"))
)
_PIECE = select(pieces.c.body).where(
    (pieces.c.upload == bindparam("upload")) & (pieces.c.number == bindparam("number"))
)
_ADD_PIECE = insert(pieces)
_ADD = insert(contents)
_REMOVE = delete(contents).where(_NAMED)
_REMOVE_PIECES = delete(pieces).where(pieces.c.upload == bindparam("of_upload"))
_TOTALS = select(func.count(), func.coalesce(func.sum(contents.c.size), 0))
_TOTALS_OF_OWNER = _TOTALS.where(contents.c.owner == bindparam("of"))
# The row is not removed before the transaction ends.
_LOCK_EXECUTOR = (
    "SELECT 1 FROM executors WHERE executor = split_part(%(upload)s, '.', 1) FOR KEY SHARE"
)
# Of processes that have no row; before there were several, an upload began with no process.
_REMOVE_LEFTOVERS = """\
DELETE FROM file_pieces p WHERE NOT EXISTS (SELECT FROM file_contents c WHERE c.upload = p.upload)
  AND NOT EXISTS (SELECT FROM executors e WHERE e.executor = split_part(p.upload, '.', 1))"""

T = TypeVar("T")


class RowContents(ContentStore):
    """Contents in the tables `file_contents` and `file_pieces`."""

    def __init__(self, database: Database, executor: Callable[[], str]) -> None:
        """Make it.

        Args:
            database: Has the tables.
            executor: Returns the id of this process among those that use the database.
        """
        self._database = database
        self._executor = executor
        self._threads = Threads(_THREADS)

    @override
    def open(self) -> None:
        with self._database.writing() as connection:
            connection.execute(_REMOVE_LEFTOVERS, {})

    @override
    async def aclose(self) -> None:
        await self._threads.aclose()

    @override
    def writer(self) -> ContentWriter:
        return _RowWriter(self._database, self._threads, self._executor())

    @override
    async def size(self, name: ContentName) -> int | None:
        found = await self._find(name)
        return None if found is None else found[1]

    async def _find(self, name: ContentName) -> tuple[str, int] | None:
        def find() -> tuple[str, int] | None:
            with self._database.reading() as connection:
                return find_content(connection, name)

        return await self._threads.run(find)

    @override
    async def read(self, name: ContentName, start: int, end: int) -> AsyncGenerator[bytes]:
        found = await self._find(name)
        if found is None or found[1] < end:
            raise ContentLost
        upload, place = found[0], start
        while place < end:
            number, skip = divmod(place, PIECE_BYTES)
            body = await self._threads.run(self._piece(upload, number))
            piece = body[skip : skip + end - place]
            if not piece:
                # Uploaded again meanwhile, perhaps: the same bytes are in other rows then.
                found = await self._find(name)
                if found is None or found[0] == upload:
                    raise ContentLost
                upload = found[0]
                continue
            place += len(piece)
            yield piece

    def _piece(self, upload: str, number: int) -> Callable[[], bytes]:
        def read() -> bytes:
            with self._database.reading() as connection:
                return piece_of(connection, upload, number) or b""

        return read

    @override
    async def delete(self, name: ContentName) -> int:
        def remove() -> int:
            with self._database.writing() as connection:
                return remove_content(connection, name)

        return await self._threads.run(remove)

    @override
    async def contents(
        self, after: ContentName | None = None, limit: int = 1000
    ) -> list[StoredContent]:
        def listed() -> list[StoredContent]:
            with self._database.reading() as connection:
                return list_page(connection, after, limit)

        return await self._threads.run(listed)

    @override
    async def totals(self, owner: str | None = None) -> tuple[int, int]:
        def counted() -> tuple[int, int]:
            with self._database.reading() as connection:
                if owner is None:
                    [(count, size)] = connection.rows(_TOTALS)
                else:
                    [(count, size)] = connection.rows(_TOTALS_OF_OWNER, {"of": owner})
            return int(count), int(size)

        return await self._threads.run(counted)


class _RowWriter(ContentWriter):
    def __init__(self, database: Database, threads: Threads, executor: str) -> None:
        self._database = database
        self._threads = threads
        self._upload = f"{executor}.{secrets.token_hex(16)}"
        self._digest = sha256()
        self._waiting = bytearray()
        self._number = 0
        self._is_published = False

    @override
    async def write(self, data: bytes) -> None:
        self._waiting += data
        self.size += len(data)
        while len(self._waiting) >= PIECE_BYTES:
            piece = bytes(self._waiting[:PIECE_BYTES])
            del self._waiting[:PIECE_BYTES]
            await self._add(piece)

    async def _add(self, piece: bytes) -> None:
        values = {"upload": self._upload, "number": self._number, "body": piece}
        self._number += 1

        def add() -> None:
            self._digest.update(piece)
            # Invisible: `publish` makes it durable.
            with self._database.writing(durable=False) as connection:
                connection.run(_ADD_PIECE, values)

        await self._threads.run(add)

    @override
    async def finish(self) -> str:
        if self._waiting:
            piece = bytes(self._waiting)
            self._waiting.clear()
            await self._add(piece)
        return self._digest.hexdigest()

    @override
    async def publish(self, owner: str) -> ContentName:
        name = ContentName(owner, self._digest.hexdigest())
        values = {"owner": owner, "digest": name.digest, "upload": self._upload, "size": self.size}

        def publish() -> None:
            with self._database.writing() as connection:
                # The pieces are there as long as the process is.
                if not connection.execute(_LOCK_EXECUTOR, {"upload": self._upload}):
                    raise Unavailable("The upload was given up: it took too long. Send it again.")
                remove_content(connection, name)
                connection.run(_ADD, values)

        await self._threads.run(publish)
        self._is_published = True
        return name

    @override
    async def discard(self) -> None:
        if self._is_published or not self._number:
            return

        def remove() -> None:
            with self._database.writing(durable=False) as connection:
                # Also when the answer of `publish` was lost, and it has happened.
                row = select(contents.c.upload).where(contents.c.upload == bindparam("of_upload"))
                if not connection.rows(row, {"of_upload": self._upload}):
                    connection.run(_REMOVE_PIECES, {"of_upload": self._upload})

        # What stays goes at the next start.
        with anyio.CancelScope(shield=True), suppress(BambooError):
            await self._threads.run(remove)


def list_page(connection: Connection, after: ContentName | None, limit: int) -> list[StoredContent]:
    """Return the contents that follow `after`, ordered by name."""
    owner, digest = after or ("", "")
    rows = connection.rows(_LIST, {"of": owner, "named": digest, "most": limit})
    return [StoredContent(ContentName(of, named), size) for of, named, size in rows]


def piece_of(connection: Connection, upload: str, number: int) -> bytes | None:
    """Return a piece of an upload, or None."""
    rows = connection.rows(_PIECE, {"upload": upload, "number": number})
    return bytes(rows[0][0]) if rows else None


def remove_content(connection: Connection, name: ContentName) -> int:
    """Remove a content with its pieces. Return its size; 0 when there is none of this name."""
    found = find_content(connection, name, locked=True)
    if found is None:
        return 0
    connection.run(_REMOVE, {"of": name.owner, "named": name.digest})
    connection.run(_REMOVE_PIECES, {"of_upload": found[0]})
    return found[1]


def find_content(
    connection: Connection, name: ContentName, *, locked: bool = False
) -> tuple[str, int] | None:
    """Return the upload and the size of a content, or None."""
    statement = _FIND_LOCKED if locked else _FIND
    rows = connection.rows(statement, {"of": name.owner, "named": name.digest})
    return (str(rows[0][0]), int(rows[0][1])) if rows else None
