"""Snapshots, `sessions/<name>.json`: a session for people, and for rebuilding what was lost.

The first line is the head with its own checksum, all that a rebuild needs to begin with; then come
the log's message lines as they are, each with the checksum it has there. The whole is one JSON
object. `offset` is the log's size as of the head.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from zlib import crc32

from app.domain import codec
from app.domain.sessions import SessionHead
from app.storage.jsonl.files import FileSystem
from app.storage.jsonl.paths import Paths
from app.storage.jsonl.reading import seq_of

_END = b"\n]}\n"
_OPEN = b',"messages":['
# Small logs are written at every chance; large ones when a quarter has been added.
_SMALL_LOG_BYTES = 1024 * 1024
# At a checkpoint only logs that are worth it, and not before they have doubled.
_CHECKPOINT_BYTES = 64 * 1024
_HEAD_BYTES = 64 * 1024


@dataclass(slots=True)
class Snapshot:
    """A snapshot as read: the head, the log's size then, and its message lines by seq."""

    head: SessionHead
    offset: int
    lines: dict[int, bytes]


def is_due(log_bytes: int, snapshot_bytes: int, *, at_rest: bool) -> bool:
    """Tells whether a new snapshot is worth it: work in proportion to what was added.

    Args:
        log_bytes: The log's size.
        snapshot_bytes: The log's size when the last snapshot was written, or 0.
        at_rest: The session leaves memory; else this is a checkpoint.
    """
    grown = log_bytes - snapshot_bytes
    if at_rest:
        return grown > 0 and (log_bytes < _SMALL_LOG_BYTES or grown >= snapshot_bytes // 4)
    return grown >= max(snapshot_bytes, _CHECKPOINT_BYTES)


def make_snapshot(head: SessionHead, offset: int, lines: Iterator[bytes]) -> bytes:
    """Makes the file's content; `lines` are stored lines without their newline."""
    body = b'{"snapshot":1,"offset":%d,"head":%b' % (offset, codec.encode(head.to_json()))
    first = b'{"crc":"%08x",%b%b' % (crc32(body), body[1:], _OPEN)
    return b"".join([first, b",".join(b"\n" + line for line in lines), _END])


def read_snapshot_head(fs: FileSystem, paths: Paths, name: str) -> tuple[SessionHead, int] | None:
    """Reads the first line alone: (head, log size), or None when there is none that can be read."""
    try:
        fd = fs.open(paths.snapshot_of(name), os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        size = _HEAD_BYTES
        while True:
            data = fs.pread(fd, size, 0)
            if b"\n" in data or len(data) < size:
                return _head_of(data[: data.find(b"\n")])
            size *= 4
    finally:
        fs.close(fd)


def read_snapshot(fs: FileSystem, paths: Paths, name: str) -> Snapshot | None:
    """Reads all that is intact, or None when not even the head is."""
    data = fs.read(paths.snapshot_of(name))
    if not data:
        return None
    first, *rest = data.split(b"\n")
    named = _head_of(first)
    if named is None:
        return None
    lines: dict[int, bytes] = {}
    for part in rest:
        line = part.removesuffix(b",") + b"\n"
        seq = seq_of(line)
        if seq is not None and codec.is_intact(line):
            lines[seq] = line
    return Snapshot(*named, lines)


def is_whole(fs: FileSystem, paths: Paths, name: str) -> bool:
    """Tells whether every line of the snapshot is intact."""
    data = fs.read(paths.snapshot_of(name)) or b""
    snapshot = read_snapshot(fs, paths, name)
    return (
        snapshot is not None
        and data.endswith(_END)
        and len(snapshot.lines) == len(data.split(b"\n")) - 3 - (not snapshot.lines)
    )


def _head_of(first: bytes) -> tuple[SessionHead, int] | None:
    if not first.endswith(_OPEN):
        return None
    body = b"{" + first[codec.LINE_PREFIX_BYTES : -len(_OPEN)]
    try:
        if crc32(body) != int(first[8:16], 16):
            return None
        shape = codec.decode(body + b"}")
        return SessionHead.of(shape["head"]), int(shape["offset"])
    except (ValueError, KeyError, TypeError):
        return None
