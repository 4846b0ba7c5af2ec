"""R1, R10: whatever of the WAL is lost or damaged, a prefix of the acknowledged commits is left.

Power is lost in the middle of a write: the WAL ends at any frame, or within one, or has garbage.
"""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from tests.storage.sqlite.support import bodies, doctor, opened
from tests.storage.sqlite.vfs import image_of
from tests.storage.writing import Writer, committed, message, token

_HEADER_BYTES = 32
_FRAME_BYTES = 24 + 4096
SESSIONS = ("a", "b")


async def write(path: Path, image: Path) -> list[dict[str, list[bytes]]]:
    """Commit to two sessions in turn; return what each commit left, and make the image."""
    states: list[dict[str, list[bytes]]] = [{name: [] for name in SESSIONS}]
    async with opened(path) as store:
        writers = {name: Writer(name, store.next_epoch()) for name in SESSIONS}
        for number in range(8):
            name = SESSIONS[number % 2]
            text = "x" * (5000 if number == 5 else 10)
            commit = writers[name].commit(message(f"m{number}", text), token(), note=f"k{number}")
            await committed(store, commit)
            last = {name: list(known) for name, known in states[-1].items()}
            last[name] += [event.body for event in commit.events]
            states.append(last)
        image_of(path, image)
    return states


async def assert_a_prefix_is_left(path: Path, states: list[dict[str, list[bytes]]]) -> int:
    """Open the database; return how many commits it has."""
    assert not any(finding.severity == "fail" for finding in doctor(path))
    async with opened(path) as store:
        found = {name: await bodies(store, name) for name in SESSIONS}
        assert found in states
        for name in SESSIONS:
            head = await store.load(name)
            assert (head.seq if head else 0) == len(found[name])
            if head is not None:
                marked = await store.find(name, head.epoch, "message", limit=100)
                assert len(marked) == head.message_count
                # The session goes on.
                await committed(store, Writer.of(head).commit(token()))
    return states.index(found)


def places(size: int) -> Iterator[int]:
    """The end of the header and of each frame, and a place within each."""
    yield from (0, 10, _HEADER_BYTES)
    for end in range(_HEADER_BYTES + _FRAME_BYTES, size + 1, _FRAME_BYTES):
        yield from (end - _FRAME_BYTES // 2, end)


async def test_a_wal_that_ends_anywhere_leaves_a_prefix_of_the_commits(tmp_path: Path) -> None:
    states = await write(tmp_path / "one" / "s.db", tmp_path / "image")
    wal = (tmp_path / "image" / "s.db-wal").read_bytes()
    most = 0
    for place in places(len(wal)):
        at = tmp_path / f"cut-{place}"
        shutil.copytree(tmp_path / "image", at)
        (at / "s.db-wal").write_bytes(wal[:place])
        left = await assert_a_prefix_is_left(at / "s.db", states)
        assert left >= most
        most = left
        shutil.rmtree(at)
    assert most == len(states) - 1


async def test_a_wal_with_a_damaged_frame_leaves_a_prefix_of_the_commits(tmp_path: Path) -> None:
    states = await write(tmp_path / "one" / "s.db", tmp_path / "image")
    wal = (tmp_path / "image" / "s.db-wal").read_bytes()
    chance = random.Random(7)
    for start in range(_HEADER_BYTES, len(wal), _FRAME_BYTES):
        at = tmp_path / f"damaged-{start}"
        shutil.copytree(tmp_path / "image", at)
        place = start + chance.randrange(_FRAME_BYTES)
        damaged = bytes([wal[place] ^ 0x55])
        (at / "s.db-wal").write_bytes(wal[:place] + damaged + wal[place + 1 :])
        await assert_a_prefix_is_left(at / "s.db", states)
        shutil.rmtree(at)


@pytest.mark.parametrize("durability", ["fsync", "os"])
async def test_an_image_of_a_running_store_has_all_that_was_acknowledged(
    tmp_path: Path, durability: str
) -> None:
    path = tmp_path / "one" / "s.db"
    async with opened(path, durability=durability) as store:
        writer = Writer("a", store.next_epoch())
        for number in range(20):
            await committed(store, writer.commit(message(f"m{number}"), note=f"k{number}"))
        expected = await bodies(store, "a")
        image = image_of(path, tmp_path / "image")
    assert doctor(image) == []
    async with opened(image, durability=durability) as again:
        assert await bodies(again, "a") == expected


async def test_a_clean_end_leaves_one_file_with_everything(tmp_path: Path) -> None:
    path = tmp_path / "one" / "s.db"
    async with opened(path) as store:
        await committed(store, Writer("a", store.next_epoch()).commit(message("m")))
    assert not path.with_name("s.db-wal").exists()
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    assert connection.execute("SELECT count(*) FROM events").get == 2
    assert connection.pragma("auto_vacuum") == 2
    connection.close()
