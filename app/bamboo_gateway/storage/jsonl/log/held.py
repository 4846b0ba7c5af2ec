"""index/held-<name>.jsonl: held lines, the last lines of a log that cannot be written.

These lines were acknowledged, so a start must find them (R1), and the journal does not wait for one
file. A held file has the end of the log byte for byte, from the offset `at` to at least the size in
the catalog. Bringing it into the log therefore writes bytes to their place, and may be repeated:

    {"crc":"…","held":1,"session":…,"epoch":…,"at":…,"bytes":…,"data_crc":…}
    <the log's lines>

A checkpoint writes the file before it drops the segments with the same lines. It removes the file
when the log has these lines and is synced, before it writes a newer catalog. A held file that does
not fit the catalog (another epoch, a size beyond) remains from a crash in between, and is ignored.
"""

from dataclasses import dataclass
from typing import Any
from zlib import crc32

from bamboo_gateway.domain import codec
from bamboo_gateway.storage.file_system import FileSystem
from bamboo_gateway.storage.jsonl.paths import Paths
from bamboo_gateway.storage.lines import body_of, is_intact, to_line

_PREFIX = "held-"
_SUFFIX = ".jsonl"


@dataclass(frozen=True, slots=True)
class Held:
    """Held lines: the end of one log, from the offset `at` on."""

    session: str
    epoch: int
    at: int
    data: bytes

    @property
    def end(self) -> int:
        """The size of the log including the held lines."""
        return self.at + len(self.data)

    def upto(self, size: int) -> "Held":
        """Return the held lines before the offset `size`."""
        return Held(self.session, self.epoch, self.at, self.data[: size - self.at])


def write_held(fs: FileSystem, paths: Paths, name: str, held: Held) -> None:
    """Write and sync the held file of a log, replacing an earlier one.

    Raises:
        OSError: The earlier file is unchanged.
    """
    about = {
        "held": 1,
        "session": held.session,
        "epoch": held.epoch,
        "at": held.at,
        "bytes": len(held.data),
        "data_crc": crc32(held.data),
    }
    line = to_line(codec.encode(about))
    fs.write_aside(paths.aside / "held", paths.held_of(name), line + held.data)


def read_held(fs: FileSystem, paths: Paths) -> dict[str, Held | None]:
    """Read all held files, by the file names of their sessions; None for a damaged one."""
    found: dict[str, Held | None] = {}
    for file in fs.names(paths.index):
        if file.startswith(_PREFIX) and file.endswith(_SUFFIX):
            name = file[len(_PREFIX) : -len(_SUFFIX)]
            found[name] = _parsed(fs.read(paths.index / file) or b"")
    return found


def _parsed(content: bytes) -> Held | None:
    line, data = content[: content.find(b"\n") + 1], content[content.find(b"\n") + 1 :]
    if not is_intact(line):
        return None
    about: dict[str, Any] = codec.decode(body_of(line))
    if len(data) != about["bytes"] or crc32(data) != about["data_crc"]:
        return None
    return Held(about["session"], about["epoch"], about["at"], data)
