"""index/held-<name>.jsonl: the last lines of a log that cannot be written.

They were acknowledged, so they have to be where a start finds them (R1), and the journal does not
wait for one file. What is held is the end of the log byte for byte, from `at` on, at least as far
as the catalog says that it goes; so bringing it in is writing bytes to their place, as often as
need be:

    {"crc":"…","held":1,"session":…,"epoch":…,"at":…,"bytes":…,"data_crc":…}
    <the log's lines>

A checkpoint writes the file before it drops the segments that have the same lines, and removes it
when the log has them, synced, before the catalog goes on. What does not fit the catalog (another
epoch, a size beyond) is left over from a crash in between, and void.
"""

from dataclasses import dataclass
from typing import Any
from zlib import crc32

from bamboo_gateway.domain import codec
from bamboo_gateway.storage.jsonl.files import FileSystem
from bamboo_gateway.storage.jsonl.paths import Paths
from bamboo_gateway.storage.lines import body_of, is_intact, to_line

_PREFIX = "held-"
_SUFFIX = ".jsonl"


@dataclass(frozen=True, slots=True)
class Held:
    """The end of one log: what it has from the byte `at` on."""

    session: str
    epoch: int
    at: int
    data: bytes

    @property
    def end(self) -> int:
        """The log's size with it."""
        return self.at + len(self.data)

    def upto(self, size: int) -> "Held":
        """Return what the log has before the byte `size`."""
        return Held(self.session, self.epoch, self.at, self.data[: size - self.at])


def write_held(fs: FileSystem, paths: Paths, name: str, held: Held) -> None:
    """Keep the end of a log, in place of what was kept of it before; synced.

    Raises:
        OSError: What was kept before is there still.
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
    """Read what is held, by the sessions' file names; None: it is damaged."""
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
