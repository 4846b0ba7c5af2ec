"""Files that messages name: what a file is, its name and media type, and what a part says of it.

The gateway stores what a client sends and never opens it: no picture is decoded and no archive
unpacked, so a bomb stays closed. It only looks at the first bytes, to tell pictures that a browser
may show from what merely says that it is one.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from bamboo_gateway.domain.clock import format_ms
from bamboo_gateway.domain.errors import InvalidInput

FILES_PER_SESSION_MAX: Final = 500
"""The most files that one session names. Their ids are part of its head: 16 KB."""

NAME_CHARS_MAX: Final = 200
"""The most characters of a file's name: what file systems and headers take, in any alphabet."""

MEDIA_TYPE_CHARS_MAX: Final = 255
"""The most characters of a media type with its parameters; registered ones have up to 127."""

SNIFF_BYTES: Final = 32
"""How much of a content tells whether it is a picture."""

DEFAULT_TYPE: Final = "application/octet-stream"

PICTURES: Final = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp", "image/avif"})
"""The media types that a browser shows in the page: pictures without scripts. SVG is not one."""

_WORD = r"[A-Za-z0-9!#$&^_.+-]{1,127}"  # RFC 6838, 4.2
_MEDIA_TYPE = re.compile(rf"({_WORD}/{_WORD})(?:[ \t]*;[ -~\t]*)?")
_SUFFIXES: Final = {
    "image/png": ".png", "image/jpeg": ".jpg", "image/gif": ".gif", "image/webp": ".webp",
    "image/avif": ".avif", "application/pdf": ".pdf", "text/plain": ".txt",
}  # fmt: skip
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Characters that show nothing, or turn the direction of what follows: `gpj.exe` as `exe.jpg`."""


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file as the gateway knows it. Times are milliseconds since 1970.

    Attributes:
        id: Its id.
        user_id: The user that it belongs to, and whose quota it counts in; None: nobody's.
        name: Its name, for people; never a path.
        media_type: What the client says that it is, in lower case and without parameters.
        size: Its bytes.
        sha256: The digest of its content.
        created_at: When it was uploaded.
        unnamed_since: Since when no session is known to name it; None: a session does.
    """

    id: str
    user_id: str | None
    name: str
    media_type: str
    size: int
    sha256: str
    created_at: int
    unnamed_since: int | None

    @property
    def is_picture(self) -> bool:
        """Whether a browser may show it inside a page."""
        return self.media_type in PICTURES

    def view(self) -> dict[str, Any]:
        """Return the File of the API, without its URL."""
        return {
            "file_id": self.id,
            "name": self.name,
            "media_type": self.media_type,
            "bytes": self.size,
            "sha256": self.sha256,
            "created_at": format_ms(self.created_at),
        }

    def part(self, kind: str) -> dict[str, Any]:
        """Return the part of a message that names the file, as the log has it."""
        return {
            "type": kind,
            "file_id": self.id,
            "name": self.name,
            "media_type": self.media_type,
            "bytes": self.size,
        }


def safe_name(text: str | None, media_type: str) -> str:
    """Return a name for people that is no path and has no hidden character.

    Of a path the last part counts: some browsers send the whole. A name that is too long keeps its
    suffix.
    """
    last = re.split(r"[/\\]", text or "")[-1]
    plain = "".join(one for one in last if unicodedata.category(one) not in _HIDDEN)
    name = " ".join(plain.split()).strip()
    if not name.strip(". "):
        return "file" + _SUFFIXES.get(media_type, "")
    if len(name) <= NAME_CHARS_MAX:
        return name
    stem, dot, suffix = name.rpartition(".")
    if not stem or len(suffix) > 20:
        return name[:NAME_CHARS_MAX]
    return stem[: NAME_CHARS_MAX - len(suffix) - 1] + dot + suffix


def checked_media_type(text: str | None) -> str:
    """Return a media type in lower case and without parameters.

    Raises:
        InvalidInput: It has not the form of one.
    """
    if not text:
        return DEFAULT_TYPE
    match = _MEDIA_TYPE.fullmatch(text.strip(" \t")) if len(text) <= MEDIA_TYPE_CHARS_MAX else None
    if match is None:
        raise InvalidInput(
            "The media type of the file (Content-Type) must have the form `image/png`.",
            errors=[{"loc": ["header", "Content-Type"], "msg": "not a media type"}],
        )
    return match[1].lower()


def picture_type(beginning: bytes) -> str | None:
    """Return the media type of a picture by its first `SNIFF_BYTES`, or None."""
    if beginning.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if beginning.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if beginning.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if beginning[:4] == b"RIFF" and beginning[8:12] == b"WEBP":
        return "image/webp"
    if beginning[4:8] == b"ftyp" and beginning[8:12] in {b"avif", b"avis"}:
        return "image/avif"
    return None


def stored_type(declared: str, beginning: bytes) -> str:
    """Return the media type that a content gets.

    What says that it is a picture of a kind which browsers show has to begin like one; of two such
    kinds the content's counts. Anything else is what the client says, and is never shown in a page.

    Raises:
        InvalidInput: It says that it is such a picture, and is none.
    """
    if declared not in PICTURES:
        return declared
    found = picture_type(beginning)
    if found is None:
        raise InvalidInput(
            f"The content is no picture, although its media type is {declared}. Send its real "
            f"media type, or `{DEFAULT_TYPE}`.",
            code="not-an-image",
        )
    return found


def files_in(content: Any) -> Iterator[str]:
    """Yield the ids of the files that a message's content names."""
    if isinstance(content, list):
        for part in content:
            if isinstance(part, dict) and isinstance(part.get("file_id"), str):
                yield part["file_id"]


def with_files(named: list[str], content: Any) -> list[str]:
    """Return the ids of the files that a session names, with those of one more message.

    The same list comes back when the message names no new one: lists of heads are never changed.
    """
    if not isinstance(content, list):
        return named
    new = [one for one in dict.fromkeys(files_in(content)) if one not in named]
    return [*named, *new] if new else named
