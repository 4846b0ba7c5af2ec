"""Snapshots, `sessions/<name>.json`: a session in one file, for people and for rebuilds.

The first line has the head and its own checksum: a rebuild can begin with this line alone. The
message lines of the log follow unchanged, each with its checksum. The whole file is one JSON
object. `offset` is the size of the log that the head belongs to.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal
from zlib import crc32

from bamboo_gateway.domain import codec
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.file_system import FileSystem
from bamboo_gateway.storage.jsonl.bulk_threads import Pacer
from bamboo_gateway.storage.jsonl.log.reader import seq_of
from bamboo_gateway.storage.jsonl.paths import Paths
from bamboo_gateway.storage.lines import LINE_PREFIX_BYTES, is_intact

_END = b"\n]}\n"
_OPEN = b',"messages":['
# A small log is written whenever its session leaves memory, a large one after growing by a quarter.
_SMALL_LOG_BYTES = 1024 * 1024
# A checkpoint writes only snapshots of logs of this size that have doubled since the last one.
_CHECKPOINT_BYTES = 64 * 1024
# One read gets most heads, and many small lines.
_READ_BYTES = 64 * 1024


def is_due(log_bytes: int, snapshot_bytes: int, *, at_rest: bool) -> bool:
    """Return whether a new snapshot is worth writing, in proportion to what the log has gained.

    Args:
        log_bytes: The size of the log.
        snapshot_bytes: The size of the log when the last snapshot was written, or 0.
        at_rest: The session leaves memory; otherwise a checkpoint asks.
    """
    grown = log_bytes - snapshot_bytes
    if at_rest:
        return grown > 0 and (log_bytes < _SMALL_LOG_BYTES or grown >= snapshot_bytes // 4)
    return grown >= max(snapshot_bytes, _CHECKPOINT_BYTES)


def write_snapshot(
    fs: FileSystem, path: Path, head: SessionHead, offset: int, lines: Iterator[bytes]
) -> int:
    """Write and sync a snapshot, piece by piece.

    Args:
        fs: The file system.
        path: The new file, which nobody reads yet; it is removed when this raises.
        head: The session's head.
        offset: The size of the log that the head belongs to.
        lines: The log's message lines, without their newlines. What this iterator raises is passed
            on.

    Returns:
        The size of the file.

    Raises:
        OSError: The snapshot could not be written.
    """
    try:
        return fs.write_pieces(path, _pieces(head, offset, lines))
    except BaseException:
        with suppress(OSError):
            fs.unlink(path)
        raise


def _pieces(head: SessionHead, offset: int, lines: Iterator[bytes]) -> Iterator[bytes]:
    body = b'{"snapshot":1,"offset":%d,"head":%b' % (offset, codec.encode(head.to_json()))
    yield b'{"crc":"%08x",%b%b' % (crc32(body), body[1:], _OPEN)
    pacer = Pacer()
    separator = b"\n"
    for line in lines:
        yield separator + line
        separator = b",\n"
        pacer.took(len(line))
    yield _END


def read_snapshot_head(fs: FileSystem, paths: Paths, name: str) -> tuple[SessionHead, int] | None:
    """Read the first line alone; return (head, log size), or None when it cannot be read."""
    for line in _lines_of(fs, paths.snapshot_of(name)):
        return _head_of(line.removesuffix(b"\n"))
    return None


def read_snapshot_lines(fs: FileSystem, paths: Paths, name: str) -> Iterator[tuple[int, bytes]]:
    """Yield the seq and the line, with its newline, of each intact message."""
    lines = _lines_of(fs, paths.snapshot_of(name))
    next(lines, None)
    for part in lines:
        line = part.removesuffix(b"\n").removesuffix(b",") + b"\n"
        seq = seq_of(line)
        if seq is not None and is_intact(line):
            yield seq, line


def is_whole(fs: FileSystem, paths: Paths, name: str) -> bool:
    """Return whether the snapshot has its end mark, and every line is intact and not repeated."""
    return _state_of(fs, paths, name) == "whole"


def remove_repeated_lines(fs: FileSystem, paths: Paths, name: str) -> None:
    """Rewrite a snapshot with repeated lines so that each is there once; leave a damaged one.

    Raises:
        OSError: The rewrite failed; the snapshot is unchanged.
    """
    remembered = read_snapshot_head(fs, paths, name)
    if remembered is None or _state_of(fs, paths, name) != "doubled":
        return
    aside, target = paths.aside / "snapshot", paths.snapshot_of(name)
    write_snapshot(fs, aside, *remembered, _each_once(read_snapshot_lines(fs, paths, name)))
    fs.rename(aside, target)
    fs.sync_directory(target.parent)


def _each_once(lines: Iterator[tuple[int, bytes]]) -> Iterator[bytes]:
    last = 0
    for seq, line in lines:
        if seq > last:
            yield line[:-1]
            last = seq


def _state_of(fs: FileSystem, paths: Paths, name: str) -> Literal["whole", "doubled", "damaged"]:
    lines = _lines_of(fs, paths.snapshot_of(name))
    if _head_of(next(lines, b"").removesuffix(b"\n")) is None:
        return "damaged"
    last, has_doubles = 0, False
    for part in lines:
        if part == _END[1:]:
            if next(lines, None) is not None:
                break
            return "doubled" if has_doubles else "whole"
        line = part.removesuffix(b"\n").removesuffix(b",") + b"\n"
        seq = seq_of(line)
        if seq is None or not is_intact(line):
            break
        has_doubles = has_doubles or seq <= last
        last = max(last, seq)
    return "damaged"


def _lines_of(fs: FileSystem, path: Path) -> Iterator[bytes]:
    """Yield the lines of a file with their newlines; none when there is no file."""
    try:
        fd = fs.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        offset = 0
        begun: list[bytes] = []
        while chunk := fs.pread(fd, _READ_BYTES, offset):
            offset += len(chunk)
            first, newline, rest = chunk.partition(b"\n")
            begun.append(first + newline)
            if not newline:
                continue
            yield b"".join(begun)
            *whole, last = rest.split(b"\n")
            for line in whole:
                yield line + b"\n"
            begun = [last]
        if end := b"".join(begun):
            yield end
    finally:
        fs.close(fd)


def _head_of(first: bytes) -> tuple[SessionHead, int] | None:
    if not first.endswith(_OPEN):
        return None
    body = b"{" + first[LINE_PREFIX_BYTES : -len(_OPEN)]
    try:
        if crc32(body) != int(first[8:16], 16):
            return None
        shape = codec.decode(body + b"}")
        return SessionHead.of(shape["head"]), int(shape["offset"])
    except (ValueError, KeyError, TypeError):
        return None
