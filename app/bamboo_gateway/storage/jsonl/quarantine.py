"""quarantine/: what could not be read is set aside with a note (R10).

It is never removed but with its session, when somebody deletes that.
"""

import re
from pathlib import Path
from typing import Any
from zlib import crc32

from bamboo_gateway.domain import codec
from bamboo_gateway.storage.jsonl.files import FileSystem
from bamboo_gateway.storage.jsonl.paths import Paths


def set_aside(fs: FileSystem, paths: Paths, stem: str, data: bytes, note: dict[str, Any]) -> str:
    """Keep bytes beside a note that says what they are and why they lie here; both synced.

    The name comes from the content, so that a recovery that is repeated sets nothing aside twice.

    Returns:
        The name of the file.

    Raises:
        OSError: They could not be written.
    """
    name = f"{stem}-{crc32(data):08x}.jsonl"
    about = codec.encode_pretty({"file": name, "bytes": len(data), **note})
    aside = paths.aside / "quarantined"
    fs.write_aside(aside, paths.quarantine / name, data)
    fs.write_aside(aside, paths.quarantine / f"{name}.note.json", about)
    return name


def pieces_of(fs: FileSystem, paths: Paths, name: str) -> list[Path]:
    """Return what was set aside of the session with that file name, and the notes."""
    # The stems that `set_aside` is called with for one session's files, and its checksum.
    piece = re.compile(rf"(log|records|snapshot|stray)-{re.escape(name)}-[0-9a-f]{{8}}\.jsonl")
    return [
        paths.quarantine / file
        for file in fs.names(paths.quarantine)
        if piece.fullmatch(file.removesuffix(".note.json"))
    ]
