"""quarantine/: what could not be read is set aside with a note, never deleted (R10)."""

from typing import Any
from zlib import crc32

from app.domain import codec
from app.storage.jsonl.files import FileSystem
from app.storage.jsonl.paths import Paths


def set_aside(fs: FileSystem, paths: Paths, stem: str, data: bytes, note: dict[str, Any]) -> str:
    """Keeps bytes beside a note that says what they are and why they lie here; both synced.

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
