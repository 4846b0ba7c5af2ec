"""The contract of readers of foreign formats, and the document they read."""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import Any, ClassVar

from bamboo_gateway.domain.codec import decode
from bamboo_gateway.exporters.imported import ImportedSession, Notes

Record = dict[str, Any]

# JavaScript may cut a string inside a character and write half of it as an escape, which strict
# JSON refuses. The pattern skips escaped backslashes and whole pairs.
_HALF_CHARACTER = re.compile(
    rb"(\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
)


@dataclass(frozen=True)
class Source:
    """A document as JSON: as one value, and line by line."""

    data: bytes

    @cached_property
    def value(self) -> Any:
        """Return the whole document as one value; None if it is not one JSON value."""
        return _json(self.data)

    @cached_property
    def lines(self) -> list[tuple[int, Record]]:
        """Return the lines that are JSON objects, with their numbers, counted from 1."""
        return [line for line in self._parsed if isinstance(line[1], dict)]

    @cached_property
    def bad_lines(self) -> list[int]:
        """Return the numbers of the other lines."""
        return [number for number, value in self._parsed if not isinstance(value, dict)]

    @cached_property
    def _parsed(self) -> list[tuple[int, Any]]:
        return [
            (number, _json(line))
            # One at a time: all lines together would be a second copy of the document.
            for number, line in enumerate(BytesIO(self.data), 1)
            if line.strip()
        ]


class ForeignReader(ABC):
    """Reads the sessions of one other program.

    A reader does not validate foreign formats. It leaves out what it does not understand, adds a
    note for each place, and continues.

    Attributes:
        format: The name of the format in requests.
        title: The name of the format for people.
    """

    format: ClassVar[str]
    title: ClassVar[str]

    @abstractmethod
    def recognizes(self, source: Source) -> bool:
        """Return whether the content of a document looks like this format. Never raises."""

    @abstractmethod
    def read(self, source: Source, notes: Notes, now_ms: int) -> list[ImportedSession]:
        """Read every session that holds a message.

        Args:
            source: The document.
            notes: Collects what was not understood.
            now_ms: The time of sessions that have none.

        Raises:
            NotUnderstood: The document does not have this format; the message says why.
        """


def objects(value: Any) -> list[Record]:
    """Return the objects of a list; none if the value is no list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def an_object(value: Any) -> Record:
    """Return an object, or an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def a_text(value: Any) -> str:
    """Return a string, or an empty one for anything else."""
    return value if isinstance(value, str) else ""


def _json(data: bytes) -> Any:
    try:
        return decode(data)
    except ValueError:
        if b"\\u" not in data:
            return None
    try:
        return decode(_HALF_CHARACTER.sub(lambda match: match[1] or b"\\ufffd", data))
    except ValueError:
        return None
