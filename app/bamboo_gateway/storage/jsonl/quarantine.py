"""quarantine/ keeps bytes that could not be read, each file with a note (R10).

The store removes them only together with their session, when somebody deletes that.
"""

import re
from pathlib import Path
from typing import Any
from zlib import crc32

from bamboo_gateway.domain import codec
from bamboo_gateway.storage.file_system import FileSystem
from bamboo_gateway.storage.jsonl.paths import Paths


def set_aside(fs: FileSystem, paths: Paths, stem: str, data: bytes, note: dict[str, Any]) -> str:
    """Write bytes into the quarantine, beside a note that describes them; sync both.

    The file's name comes from the content, so that a repeated recovery sets nothing aside twice.

    Returns:
        The name of the file.

    Raises:
        OSError: The bytes could not be written.
    """
    name = f"{stem}-{crc32(data):08x}.jsonl"
    about = codec.encode_pretty({"file": name, "bytes": len(data), **note})
    aside = paths.aside / "quarantined"
    fs.write_aside(aside, paths.quarantine / name, data)
    fs.write_aside(aside, paths.quarantine / f"{name}.note.json", about)
    return name


def pieces_of(fs: FileSystem, paths: Paths, name: str) -> list[Path]:
    """Return the quarantined files of the session with that file name, and their notes."""
    # The stems that callers of `set_aside` use for one session's files, and the checksum.
    piece = re.compile(rf"(log|records|snapshot|stray)-{re.escape(name)}-[0-9a-f]{{8}}\.jsonl")
    return [
        paths.quarantine / file
        for file in fs.names(paths.quarantine)
        if piece.fullmatch(file.removesuffix(".note.json"))
    ]
