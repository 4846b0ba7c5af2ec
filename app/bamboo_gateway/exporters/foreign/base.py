"""The contract of readers of foreign formats, and what they are given to read."""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import Any, ClassVar

from bamboo_gateway.domain.codec import decode
from bamboo_gateway.exporters.imported import ImportedSession, Notes

Record = dict[str, Any]

# JavaScript cuts strings in the middle of a character and writes the half as an escape, which
# strict JSON refuses. An escaped backslash and whole pairs are stepped over.
_HALF_CHARACTER = re.compile(
    rb"(\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
)


@dataclass(frozen=True)
class Source:
    """A document as JSON: as one value, and line by line."""

    data: bytes

    @cached_property
    def value(self) -> Any:
        """The whole document; None when it is not one JSON value."""
        return _json(self.data)

    @cached_property
    def lines(self) -> list[tuple[int, Record]]:
        """Its lines that are JSON objects, with their numbers, counted from 1."""
        return [line for line in self._parsed if isinstance(line[1], dict)]

    @cached_property
    def bad_lines(self) -> list[int]:
        """The numbers of the lines that are something else."""
        return [number for number, value in self._parsed if not isinstance(value, dict)]

    @cached_property
    def _parsed(self) -> list[tuple[int, Any]]:
        return [
            (number, _json(line))
            # One at a time: all lines beside what they hold would be the document once more.
            for number, line in enumerate(BytesIO(self.data), 1)
            if line.strip()
        ]


class ForeignReader(ABC):
    """Reads the sessions of one other program.

    Foreign formats are not ours to validate: what a reader does not understand it notes and leaves
    out, place by place, and reads on.

    Attributes:
        format: Its name in requests.
        told: What it reads, for people.
    """

    format: ClassVar[str]
    told: ClassVar[str]

    @abstractmethod
    def recognizes(self, source: Source) -> bool:
        """Tells by its content whether a document is of this format. Never raises."""

    @abstractmethod
    def read(self, source: Source, notes: Notes, now_ms: int) -> list[ImportedSession]:
        """Reads every session that holds a message.

        Args:
            source: The document.
            notes: Takes what was not understood.
            now_ms: The time for sessions that tell none.

        Raises:
            NotUnderstood: The document is not of this format; the message says why.
        """


def objects(value: Any) -> list[Record]:
    """Gives the objects of a list; none when it is no list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def an_object(value: Any) -> Record:
    """Gives an object, or an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def a_text(value: Any) -> str:
    """Gives a string, or an empty one for anything else."""
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
