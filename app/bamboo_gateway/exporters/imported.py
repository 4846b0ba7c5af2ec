"""The result of reading a document: sessions that can be stored, and notes on the rest."""

import re
from dataclasses import dataclass, field
from typing import Any, Final, TypedDict

from bamboo_gateway.domain.codec import nests_deeper

NOTES_MAX: Final = 200
"""The most notes on one document: enough to see what is wrong; the rest is counted."""

NOTE_CHARS_MAX: Final = 200
"""The most characters of the document that a note quotes, so that answers stay small."""

TITLE_CHARS_MAX: Final = 1_000
"""The same limit as for titles that clients send."""

DEPTH_MAX: Final = 200
"""The deepest nesting of a message or of a session's data. The encoder refuses 254 levels, and the
event around a message takes some of them."""


_FIRST_NUMBER = re.compile(r"[0-9]{1,18}")


class ImportNote(TypedDict):
    """A `Note` as the API answers it."""

    place: str
    what: str


@dataclass(frozen=True, slots=True)
class Note:
    """A part of the document that was left out of the sessions, or changed.

    Attributes:
        place: The place of that part: `line 12`, `conversation 3, node abc`.
        what: What it is and what was done about it, for people.
    """

    place: str
    what: str

    def to_json(self) -> ImportNote:
        """Return the note as the API answers it."""
        return {"place": self.place, "what": self.what}


@dataclass(frozen=True, slots=True)
class ImportedSession:
    """A session that was read from a document and is not stored yet.

    Attributes:
        session: A Session of the API. It always has `title`, `session_type`, `working_dir`,
            `created_at`, `metadata` and `extension_data`, and `id` if the document has a valid one.
            From the gateway's own formats it is what was written, with `user_id`, `parent`,
            `usage`, `position`, `updated_at` and so on; the importing code decides which to use.
        messages: Complete Messages of the API, in order. Their ids are valid. In the gateway's own
            formats an id may occur twice, because earlier versions allowed that.
        summary: The saved summary, as an export wrote it.
        lineage: The ancestors and merges, as an export wrote them.
        branches: The branches, as an export wrote them. Then `messages` are those of all branches.
    """

    session: dict[str, Any]
    messages: list[dict[str, Any]]
    summary: dict[str, Any] | None = None
    lineage: dict[str, Any] | None = None
    branches: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ImportedDocument:
    """Everything that was read from one document.

    Attributes:
        format: The format of the document, named or detected.
        sessions: At least one session; only ChatGPT's export may hold several.
        notes: What was not understood, in the order of the document.
    """

    format: str
    sessions: tuple[ImportedSession, ...]
    notes: tuple[Note, ...] = ()


class NotUnderstood(ValueError):
    """The document does not have the reader's format; the message says why."""


@dataclass(slots=True)
class Notes:
    """Collects notes up to a limit. The same note on many places becomes one."""

    _notes: list[Note] = field(default_factory=list)
    _repeated: dict[str, tuple[str, int]] = field(default_factory=dict)
    _left_out: int = 0

    def add(self, place: str, what: str) -> None:
        """Add a note on one place."""
        if len(self._notes) < NOTES_MAX:
            self._notes.append(Note(place, _short(what)))
        else:
            self._left_out += 1

    def count(self, place: str, what: str) -> None:
        """Add a note that applies to many places; it is listed once, with the first place."""
        first, count = self._repeated.get(what, (place, 0))
        self._repeated[what] = first, count + 1

    def all(self) -> tuple[Note, ...]:
        """Return the notes in the order of the document."""
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
    """Return a value of the document for a note: short, and on one line."""
    return _short(repr(value), 60)


def is_deep(value: Any) -> bool:
    """Return whether a JSON value nests deeper than `DEPTH_MAX`."""
    return nests_deeper(value, DEPTH_MAX)


def _short(text: str, chars_max: int = NOTE_CHARS_MAX) -> str:
    return text if len(text) <= chars_max else text[: chars_max - 1] + "…"
