"""One session as a zip: its document, and the files that its messages name.

session.json            the document
files/<digest>          each content once, by its SHA-256
errors.txt              the files that could not be read, if there are any
"""

import zipfile
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing
from typing import BinaryIO, Final, NamedTuple

import anyio
from anyio import to_thread

from bamboo_gateway.domain.errors import BambooError, InvalidInput, TooLarge
from bamboo_gateway.domain.limits import KiB
from bamboo_gateway.exporters.base import Export
from bamboo_gateway.exporters.zip_buffer import ZipBuffer

_FOLDER: Final = "files/"
_DOCUMENTS: Final = ("session.json", "session.yaml")
_PIECE_BYTES: Final = 128 * KiB
_RATIO_MAX: Final = 200
"""How many times larger than its compressed form a member may be: text gets to a hundred, and what
gets further is a bomb or could be sent without compression."""


class ExportedFile(NamedTuple):
    """A file that goes into the zip: its digest, and a function that reads its content."""

    digest: str
    pieces: Callable[[], AsyncGenerator[bytes]]


async def stream_session_zip(
    document: Export, files: AsyncIterator[ExportedFile], limiter: anyio.CapacityLimiter
) -> AsyncGenerator[bytes]:
    """Yield the zip in pieces.

    Args:
        document: The session's document.
        files: Its files; a digest that comes again is left out.
        limiter: Limits the threads that this takes.
    """
    buffer = ZipBuffer()
    archive = zipfile.ZipFile(buffer, "w", allowZip64=True)
    suffix = "." + document.file_name.rpartition(".")[2]
    async for data in _added(
        archive, buffer, "session" + suffix, document.chunks, limiter, zipfile.ZIP_DEFLATED
    ):
        yield data
    written: set[str] = set()
    failed: list[str] = []
    async for file in files:
        if file.digest in written:
            continue
        written.add(file.digest)
        try:
            # Most pictures are compressed already.
            async for data in _added(
                archive, buffer, _FOLDER + file.digest, file.pieces(), limiter, zipfile.ZIP_STORED
            ):
                yield data
        except BambooError as error:
            failed.append(f"{file.digest}: {error.detail} ({error.code})\n")
    if failed:
        archive.writestr("errors.txt", "".join(failed))
    archive.close()
    yield buffer.take()


async def _added(
    archive: zipfile.ZipFile,
    buffer: ZipBuffer,
    name: str,
    pieces: AsyncGenerator[bytes],
    limiter: anyio.CapacityLimiter,
    compression: int,
) -> AsyncGenerator[bytes]:
    member = zipfile.ZipInfo(name)
    member.compress_type = compression
    with archive.open(member, "w", force_zip64=True) as file:
        async with aclosing(pieces):
            async for piece in pieces:
                await to_thread.run_sync(file.write, piece, limiter=limiter)
                if data := buffer.take():
                    yield data


class SessionZip:
    """A zip that somebody sends back. Nothing of it is believed: each read is bounded.

    Its methods block; call them in a worker thread.
    """

    def __init__(
        self, file: BinaryIO, *, document_bytes_max: int, file_bytes_max: int, files_max: int
    ) -> None:
        """Read the directory of the zip.

        Raises:
            InvalidInput: It is no zip of a session.
            TooLarge: It has more members than a session may have files, or larger ones.
        """
        try:
            self._zip = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
            raise _no_zip() from error
        members = self._zip.infolist()
        if len(members) > files_max + 2:
            raise TooLarge(f"The zip has more than {files_max} files.")
        self._members: dict[str, zipfile.ZipInfo] = {}
        for member in members:
            if member.filename in self._members:
                raise _no_zip()
            self._members[member.filename] = member
        self._file_bytes_max = file_bytes_max
        self.document = self._document(document_bytes_max)

    def _document(self, bytes_max: int) -> bytes:
        for name in _DOCUMENTS:
            if name in self._members:
                return b"".join(self._pieces(name, bytes_max))
        raise InvalidInput(f"The zip has no {_DOCUMENTS[0]}: it is no export of a session.")

    def has(self, digest: str) -> bool:
        """Return whether the zip has a content."""
        return _FOLDER + digest in self._members

    def pieces(self, digest: str) -> "ZipPieces":
        """Begin to read a content."""
        return ZipPieces(self._pieces(_FOLDER + digest, self._file_bytes_max))

    def _pieces(self, name: str, bytes_max: int) -> Iterator[bytes]:
        member = self._members[name]
        if member.file_size > bytes_max:
            raise TooLarge(f"{name} in the zip is larger than {bytes_max} bytes.")
        if member.file_size > _RATIO_MAX * max(member.compress_size, 1024):
            raise TooLarge(f"{name} in the zip is compressed more than {_RATIO_MAX} times.")
        if member.flag_bits & 1:
            raise InvalidInput("The zip is encrypted.")
        left = bytes_max
        try:
            with self._zip.open(member) as opened:
                while piece := opened.read(_PIECE_BYTES):
                    left -= len(piece)
                    if left < 0:
                        raise TooLarge(f"{name} in the zip is larger than {bytes_max} bytes.")
                    yield piece
        except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, zlib.error) as error:
            raise _no_zip() from error


class ZipPieces:
    """Reads a content piece by piece."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces

    def next(self) -> bytes:
        """Return the next piece; empty at the end. This blocks.

        Raises:
            InvalidInput, TooLarge: The zip is damaged, or not what it says.
        """
        return next(self._pieces, b"")


def _no_zip() -> InvalidInput:
    return InvalidInput("The zip is damaged, or no export of a session.")
