"""Names of exported files, on a disk and in a header."""

import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any
from urllib.parse import quote

NAME_CHARS_MAX = 80
"""The most characters of a name: readable in a file manager and, with id and suffix, far below the
255 bytes of file systems, even if every character takes four bytes."""

_FOLDER_STEM_CHARS = 40

_UNSAFE = re.compile(r"[^\w.-]+")
_NOT_ASCII = re.compile(r"[^A-Za-z0-9._-]+")
_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", *(f"{kind}{n}" for kind in ("com", "lpt") for n in range(10))]
)


def file_name(session: Mapping[str, Any], suffix: str) -> str:
    """Return a file name that is safe everywhere: letters, digits, `_`, `.`, `-`.

    It is made of the title or, without one, of the id. It never begins with a dot (a hidden file),
    and is never a device name of Windows or a path.

    Args:
        session: A Session of the API.
        suffix: The exporter's suffix.
    """
    stem = _UNSAFE.sub("_", session.get("title") or "")[:NAME_CHARS_MAX].strip("._-")
    stem = stem or _UNSAFE.sub("_", str(session.get("id") or "")).lstrip("._-") or "session"
    if stem.split(".")[0].casefold() in _DEVICES:
        stem = f"session_{stem}"
    return stem + suffix


def folder_name(user_id: str) -> str:
    """Return the name of a user's folder: readable, and unique to the user on any file system."""
    stem = _NOT_ASCII.sub("_", user_id)[:_FOLDER_STEM_CHARS].strip("._-").casefold()
    return f"{stem}-{sha256(user_id.encode()).hexdigest()[:16]}"


def content_disposition(name: str) -> str:
    """Return the value of `Content-Disposition` that saves a response under `name`.

    The name is in `filename*` (RFC 8187) and, for clients that ignore that, as ASCII in `filename`
    (RFC 6266, section 4.3).
    """
    stem, dot, suffix = name.rpartition(".")
    plain = (_NOT_ASCII.sub("_", stem).strip("_.") or "session") + dot + suffix
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
