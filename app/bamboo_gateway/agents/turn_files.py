"""The files of a turn: what its messages name, and how an agent reads them."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass

from bamboo_gateway.domain.errors import BambooError
from bamboo_gateway.domain.limits import MiB

READ_BYTES_MAX = 32 * MiB
"""The most that `TurnFile.read` holds in memory at once; `pieces` has no such bound."""


@dataclass(frozen=True, slots=True)
class TurnFile:
    """A file that a message of the session names.

    Attributes:
        file_id: Its id.
        name: Its name, for people; do not use it as a path.
        media_type: What the client says that it is.
        size: Its bytes.
        pieces: Returns its content in pieces of some 100 KiB; close the generator when you stop
            early.
    """

    file_id: str
    name: str
    media_type: str
    size: int
    pieces: Callable[[], AsyncGenerator[bytes]]

    async def read(self, bytes_max: int = READ_BYTES_MAX) -> bytes:
        """Return the whole content.

        Raises:
            FileRefused: It is larger than `bytes_max`: read its `pieces`.
        """
        if self.size > bytes_max:
            raise FileRefused(
                f"The file {self.name!r} has {self.size} bytes, more than {bytes_max}.",
                code="file_too_large",
            )
        async with aclosing(self.pieces()) as pieces:
            return b"".join([piece async for piece in pieces])


class FileRefused(BambooError):
    """The agent cannot have this file."""

    code = "unknown_file"


OpenFile = Callable[[str], Awaitable[TurnFile]]
"""Returns a file that the session names, by its id."""


async def no_files(file_id: str) -> TurnFile:
    """Refuse a file: this turn belongs to no session."""
    raise FileRefused(f"No message of this session names a file {file_id!r}.")
