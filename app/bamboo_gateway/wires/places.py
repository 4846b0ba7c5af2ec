"""Where a folded stream is, as a value that says what was read so far.

The frames of a run depend on everything before them: which parts were opened, what was said of a
message that is not whole yet. So a place is equal to another one when the same lines were read, of
which it keeps the size and a checksum, whatever pieces they came in. After compaction a late reader
has read other lines than an early one, so the two share nothing.
"""

from typing import Any, Generic, TypeVar
from zlib import crc32

from typing_extensions import override

R = TypeVar("R")

Texts = tuple[Any, bytes] | None
"""The text of deltas as it is encoded, without quotation marks: the last piece behind all before
it. So a place with one more piece costs nothing, whatever it has already."""


def joined(texts: Texts) -> bytes:
    """Return all of a text."""
    found: list[bytes] = []
    while texts is not None:
        texts, text = texts
        found.append(text)
    return b"".join(reversed(found))


class Place(Generic[R]):
    """Where a stream is.

    Attributes:
        run: What changes seldom; nobody changes it.
        texts: What deltas have said of the part that is being made.
        number: The number of the last frame, in protocols that have one.
        after: The number up to which the reader has the frames; -1: it has none.
    """

    __slots__ = ("_digest", "_size", "after", "number", "run", "texts")

    def __init__(self, run: R, after: int = -1) -> None:
        self.run = run
        self.texts: Texts = None
        self.number = -1
        self.after = after
        self._size = self._digest = 0

    def behind(self, lines: bytes, run: R, texts: Texts, number: int = -1) -> "Place[R]":
        """Return the place behind lines."""
        place = Place(run, self.after)
        place.texts = texts
        place.number = number
        place._size = self._size + len(lines)
        place._digest = crc32(lines, self._digest)
        return place

    @override
    def __hash__(self) -> int:
        return hash((self._size, self._digest))

    @override
    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Place):
            return NotImplemented
        return (self._size, self._digest, self.after) == (other._size, other._digest, other.after)
