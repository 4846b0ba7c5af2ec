"""Arrays as PostgreSQL's binary protocol has them, for statements that take many rows at once.

psycopg turns a list into an array element by element, each through several calls, and bytes into
twice as many hexadecimal digits. For the rows of a group commit that costs more than the database's
work, so they are encoded here, and psycopg passes them on as they are.

The format is that of `array_recv` in PostgreSQL's `arrayfuncs.c`.
"""

from collections.abc import Iterable, Sequence
from struct import Struct
from typing import TYPE_CHECKING, ClassVar

from psycopg.adapt import Buffer, Dumper
from psycopg.pq import Format
from typing_extensions import override

if TYPE_CHECKING:
    from psycopg import Connection

_NULL = b"\xff\xff\xff\xff"
_HEADER = Struct("!iiIii")
_LENGTH = Struct("!i")
_INT8 = Struct("!iq")
_BOOLS = (b"\x00\x00\x00\x01\x00", b"\x00\x00\x00\x01\x01")


class _Array(bytes):
    """An encoded array; a subclass is one type of the database."""

    __slots__ = ()
    oid: ClassVar[int]
    element_oid: ClassVar[int]

    @classmethod
    def _of(cls, size: int, elements: Iterable[bytes]) -> "_Array":
        dimensions = 1 if size else 0
        head = _HEADER.pack(dimensions, 1, cls.element_oid, size, 1)
        # An empty array has no dimensions, and its header ends before them.
        return cls(b"".join((head, *elements)) if size else head[:12])


class Int8Array(_Array):
    """`bigint[]`."""

    __slots__ = ()
    oid, element_oid = 1016, 20

    @classmethod
    def of(cls, values: Sequence[int | None]) -> "_Array":
        """Encode numbers of 64 bits."""
        pack = _INT8.pack
        return cls._of(len(values), [_NULL if v is None else pack(8, v) for v in values])


class BoolArray(_Array):
    """`boolean[]`."""

    __slots__ = ()
    oid, element_oid = 1000, 16

    @classmethod
    def of(cls, values: Sequence[bool]) -> "_Array":
        """Encode truth values."""
        return cls._of(len(values), [_BOOLS[v] for v in values])


class ByteaArray(_Array):
    """`bytea[]`."""

    __slots__ = ()
    oid, element_oid = 1001, 17

    @classmethod
    def of(cls, values: Sequence[bytes]) -> "_Array":
        """Encode bytes."""
        pack = _LENGTH.pack
        elements: list[bytes] = []
        for value in values:
            elements.append(pack(len(value)))
            elements.append(value)
        return cls._of(len(values), elements)


class TextArray(_Array):
    """`text[]`."""

    __slots__ = ()
    oid, element_oid = 1009, 25

    @classmethod
    def of(cls, values: Sequence[str | None]) -> "_Array":
        """Encode texts, which have no NUL."""
        pack = _LENGTH.pack
        elements: list[bytes] = []
        for value in values:
            if value is None:
                elements.append(_NULL)
            else:
                encoded = value.encode()
                elements += (pack(len(encoded)), encoded)
        return cls._of(len(values), elements)


def register(connection: "Connection[object]") -> None:
    """Let a connection pass encoded arrays on."""
    for kind in (Int8Array, BoolArray, ByteaArray, TextArray):
        connection.adapters.register_dumper(kind, _DUMPERS[kind])


class _Passing(Dumper):
    format = Format.BINARY

    @override
    def dump(self, obj: Buffer) -> Buffer:
        return obj


_DUMPERS = {
    kind: type(f"{kind.__name__}Dumper", (_Passing,), {"oid": kind.oid})
    for kind in (Int8Array, BoolArray, ByteaArray, TextArray)
}
