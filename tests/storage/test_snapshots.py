"""R11, R12: a snapshot of any size is written and read in pieces, whole or not at all."""

import errno
import json
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import pytest
from typing_extensions import override

from bamboo_gateway.domain import codec
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.file_system import WRITE_BYTES, FileSystem
from bamboo_gateway.storage.jsonl.paths import Paths, root_of
from bamboo_gateway.storage.jsonl.snapshots import (
    is_whole,
    read_snapshot_head,
    read_snapshot_lines,
    write_snapshot,
)
from bamboo_gateway.storage.lines import to_line
from tests.storage.conftest import Opener
from tests.storage.faults import FaultyFileSystem
from tests.storage.writing import Writer, committed, message

LINE_BYTES = 40_000


class Measured(FileSystem):
    """Record the most bytes read or written at once."""

    def __init__(self) -> None:
        self.read_at_most = self.written_at_most = 0

    @override
    def pread(self, fd: int, size: int, offset: int) -> bytes:
        self.read_at_most = max(self.read_at_most, size)
        return super().pread(fd, size, offset)

    @override
    def pwrite(self, fd: int, data: bytes, offset: int) -> None:
        self.written_at_most = max(self.written_at_most, len(data))
        super().pwrite(fd, data, offset)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    paths = Paths(root_of(tmp_path))
    for directory in paths.directories():
        FileSystem().make_directory(directory)
    return paths


def lines_of(count: int, size: int = LINE_BYTES) -> Iterator[bytes]:
    for seq in range(1, count + 1):
        said = {"seq": seq, "message_id": f"m{seq}", **message(f"m{seq}", "x" * size)}
        body = {"type": "message", "seq": seq, **said}
        yield to_line(codec.encode(body))[:-1]


def write(fs: FileSystem, paths: Paths, count: int, size: int = LINE_BYTES) -> int:
    path = paths.snapshot_of("s")
    return write_snapshot(fs, path, SessionHead("s", 7), 99, lines_of(count, size))


@pytest.mark.parametrize("count", [0, 1, 2, 30])
def test_a_snapshot_is_one_json_object_of_the_head_and_the_lines(paths: Paths, count: int) -> None:
    size = write(FileSystem(), paths, count)
    data = paths.snapshot_of("s").read_bytes()
    body = b'{"snapshot":1,"offset":99,"head":%b' % codec.encode(SessionHead("s", 7).to_json())
    first = b'{"crc":"%08x",%b,"messages":[' % (crc32(body), body[1:])
    assert data == first + b",".join(b"\n" + line for line in lines_of(count)) + b"\n]}\n"
    assert size == len(data)
    assert len(json.loads(data)["messages"]) == count
    assert is_whole(FileSystem(), paths, "s")
    assert read_snapshot_head(FileSystem(), paths, "s") == (SessionHead("s", 7), 99)
    expected = [(seq, line + b"\n") for seq, line in enumerate(lines_of(count), 1)]
    assert list(read_snapshot_lines(FileSystem(), paths, "s")) == expected


def test_a_snapshot_is_written_and_read_piece_by_piece(paths: Paths) -> None:
    fs = Measured()
    assert write(fs, paths, 100) > 3_000_000
    assert fs.written_at_most < WRITE_BYTES + LINE_BYTES + 1000
    assert is_whole(fs, paths, "s")
    assert sum(len(line) for _, line in read_snapshot_lines(fs, paths, "s")) > 3_000_000
    assert fs.read_at_most < WRITE_BYTES


def test_a_snapshot_that_is_cut_anywhere_is_not_whole(paths: Paths) -> None:
    write(FileSystem(), paths, 2, size=10)
    path = paths.snapshot_of("s")
    data = path.read_bytes()
    for end in range(len(data)):
        path.write_bytes(data[:end])
        assert not is_whole(FileSystem(), paths, "s"), end
    path.write_bytes(data + b"x")
    assert not is_whole(FileSystem(), paths, "s")


def test_r10_only_damaged_lines_are_skipped(paths: Paths) -> None:
    write(FileSystem(), paths, 3, size=10)
    path = paths.snapshot_of("s")
    path.write_bytes(path.read_bytes().replace(b'"message_id":"m2"', b'"message_id":"mX"'))
    assert [seq for seq, _ in read_snapshot_lines(FileSystem(), paths, "s")] == [1, 3]
    assert not is_whole(FileSystem(), paths, "s")


def test_r9_nothing_is_left_of_a_snapshot_that_could_not_be_written(paths: Paths) -> None:
    calls = 1
    while True:
        fs = FaultyFileSystem(lambda number, *_: errno.EIO if number == calls else None)  # noqa: B023 - used within its turn
        try:
            write(fs, paths, 20)
        except OSError:
            assert not paths.snapshot_of("s").exists(), calls
            calls += 1
            continue
        break
    assert calls > 3  # it was opened, written in pieces, and synced


async def test_r9_a_log_that_fails_during_its_snapshot_leaves_the_former_snapshot(
    data_dir: Path, opener: Opener
) -> None:
    store = await opener()
    writer = Writer("s", store.next_epoch())
    await committed(store, writer.commit(message("m1", "x" * 100_000)))
    await store.release("s")
    paths = Paths(root_of(data_dir))
    former = paths.snapshot_of("s").read_bytes()
    await committed(store, writer.commit(message("m2", "y" * 20_000), message("m3", "z" * 1000)))
    await store.checkpoint()  # by itself it would not write one: too little has come
    log = paths.log_of("s")
    data = log.read_bytes()
    log.write_bytes(data.replace(b"zzz", b"zzZ"))
    await store.release("s")
    assert paths.snapshot_of("s").read_bytes() == former
    assert not list(paths.aside.glob("snapshot-*"))
    log.write_bytes(data)
    await store.release("s")
    assert is_whole(FileSystem(), paths, "s")
    assert len(list(read_snapshot_lines(FileSystem(), paths, "s"))) == 3
