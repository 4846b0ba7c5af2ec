"""What reading a document gives: sessions, ready to be stored, and notes on the rest."""

import re
from dataclasses import dataclass, field
from typing import Any, Final

from bamboo_gateway.domain.codec import nests_deeper

NOTES_MAX: Final = 200
"""Notes of one document: enough to see what is wrong; the rest is counted."""

NOTE_CHARS_MAX: Final = 200
"""What a note quotes of the document; an answer never echoes a large input."""

TITLE_CHARS_MAX: Final = 1_000
"""The same as for titles that clients send."""

DEPTH_MAX: Final = 200
"""Nesting of a message or of a session's data: the encoder refuses 254, the event around a
message takes some of it."""


_FIRST_NUMBER = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class Note:
    """Something of the document that is not in the sessions, or is there in another form.

    Attributes:
        place: Where: `line 12`, `conversation 3, node abc`.
        what: What it is and what was done about it, for people.
    """

    place: str
    what: str

    def to_json(self) -> dict[str, str]:
        """Gives the shape for answers."""
        return {"place": self.place, "what": self.what}


@dataclass(frozen=True, slots=True)
class ImportedSession:
    """A session as a document tells it. Nothing is stored yet.

    Attributes:
        session: In the contract's shape. Always there: `title`, `session_type`, `working_dir`,
            `created_at`, `metadata`, `extension_data`. `id` where the document has a legal one.
            From our own formats it is what was written, so `user_id`, `parent`, `usage`,
            `position`, `updated_at` and the like are there too; who imports decides which count.
        messages: In the contract's shape, complete, in order; ids are legal, and in our own
            formats may stand twice: sessions of earlier versions took an id again.
        summary: The saved summary, as written by an export.
        lineage: The ancestors and merges, as written by an export.
    """

    session: dict[str, Any]
    messages: list[dict[str, Any]]
    summary: dict[str, Any] | None = None
    lineage: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ImportedDocument:
    """Everything that was read from one document.

    Attributes:
        format: Which format it is in, whether named or detected.
        sessions: At least one; only ChatGPT's export may hold several.
        notes: What was not understood, in the order of the document.
    """

    format: str
    sessions: tuple[ImportedSession, ...]
    notes: tuple[Note, ...] = ()


class NotUnderstood(ValueError):
    """A reader finds that the document is not of its format; the message says why."""


@dataclass(slots=True)
class Notes:
    """Collects notes within their bound; the same remark about many places becomes one."""

    _notes: list[Note] = field(default_factory=list)
    _repeated: dict[str, tuple[str, int]] = field(default_factory=dict)
    _left_out: int = 0

    def add(self, place: str, what: str) -> None:
        """Notes something about one place."""
        if len(self._notes) < NOTES_MAX:
            self._notes.append(Note(place, _short(what)))
        else:
            self._left_out += 1

    def count(self, place: str, what: str) -> None:
        """Notes something that holds for many places: told once, with the first place."""
        first, count = self._repeated.get(what, (place, 0))
        self._repeated[what] = first, count + 1

    def all(self) -> tuple[Note, ...]:
        """Gives the notes in the order of the document."""
        notes = list(self._notes)
        for what, (place, count) in self._repeated.items():
            more = f" and {count - 1} more" if count > 1 else ""
            notes.append(Note(place + more, _short(what)))
        notes.sort(key=_number)
        if self._left_out:
            notes.append(Note("document", f"{self._left_out} more notes are not shown"))
        return tuple(notes)


def _number(note: Note) -> int:
    number = _FIRST_NUMBER.search(note.place)
    return int(number[0]) if number else 0


def quoted_value(value: object) -> str:
    """Gives a value of the document for a note, short and on one line."""
    return _short(repr(value), 60)


def is_deep(value: Any) -> bool:
    """Tells whether a JSON value nests deeper than `DEPTH_MAX`."""
    return nests_deeper(value, DEPTH_MAX)


def _short(text: str, chars_max: int = NOTE_CHARS_MAX) -> str:
    return text if len(text) <= chars_max else text[: chars_max - 1] + "…"
