"""R8: one process owns a data directory, even when its files are deleted or moved."""

import asyncio
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typing_extensions import override

from bamboo_gateway.domain.errors import StorageFailed
from bamboo_gateway.storage.base import StoreBusy
from bamboo_gateway.storage.file_system import FileSystem
from bamboo_gateway.storage.jsonl.store import JsonlStore
from tests.storage.conftest import Opener
from tests.storage.faults import abandon
from tests.storage.test_doctor import check
from tests.storage.writing import StepClock, Writer, answer_to, append, committed, message, seqs

# Open the store, print `open` or why not, and keep it open until the input ends.
OWNER = """
import asyncio, pathlib, sys
from bamboo_gateway.domain.clock import SystemClock
from bamboo_gateway.storage.base import StoreBusy
from bamboo_gateway.storage.jsonl.store import JsonlStore

async def main():
    try:
        await JsonlStore(pathlib.Path(sys.argv[1]), SystemClock()).open()
    except StoreBusy as busy:
        print(busy.detail, flush=True)
        return
    print("open", flush=True)
    sys.stdin.read()

asyncio.run(main())
"""


def command(data_dir: Path) -> list[str]:
    return [sys.executable, "-c", OWNER, str(data_dir)]


@contextmanager
def owner(data_dir: Path) -> Iterator["subprocess.Popen[str]"]:
    """Run a process that owns the directory; kill it at the end."""
    with subprocess.Popen(
        command(data_dir), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
            yield process
        finally:
            process.kill()


def refused(data_dir: Path) -> str:
    """Start a process that must not get the directory; return its output."""
    ended = subprocess.run(
        command(data_dir),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,  # one that got in does not end by itself
    )
    assert ended.stdout != "open\n"
    return ended.stdout


def test_a_second_process_is_refused_and_gets_in_when_the_first_was_killed(data_dir: Path) -> None:
    """The kernel has the lock, so a killed owner leaves none behind."""
    with owner(data_dir) as first:
        assert f"pid {first.pid}" in refused(data_dir)
    with owner(data_dir):
        pass


def test_deleting_the_lock_file_lets_no_second_process_in(data_dir: Path) -> None:
    with owner(data_dir):
        (data_dir / "LOCK").unlink()
        assert "in use by another process" in refused(data_dir)
        # Not even when there is a new file of that name, which nobody has locked.
        (data_dir / "LOCK").touch()
        assert "in use by another process" in refused(data_dir)
        with pytest.raises(StoreBusy):
            check(data_dir, repair=True)
    with owner(data_dir):
        pass


async def test_without_directory_locks_the_lock_file_alone_protects_the_directory(
    opener: Opener, data_dir: Path, clock: StepClock
) -> None:
    class WithoutDirectoryLocks(FileSystem):
        @override
        def lock_directory(self, path: Path) -> int | None:
            return None

    store = await opener(WithoutDirectoryLocks())
    with pytest.raises(StoreBusy):
        await JsonlStore(data_dir, clock, fs=WithoutDirectoryLocks()).open()
    await store.aclose()
    await opener(WithoutDirectoryLocks())


async def test_an_earlier_gateway_that_locks_only_the_file_keeps_a_later_one_out(
    opener: Opener, data_dir: Path
) -> None:
    class WithoutDirectoryLocks(FileSystem):
        @override
        def lock_directory(self, path: Path) -> int | None:
            return None

    await opener(WithoutDirectoryLocks())
    assert "in use by the process with pid" in await asyncio.to_thread(refused, data_dir)


@pytest.mark.parametrize("is_made_again", [True, False])
async def test_an_owner_whose_directory_was_replaced_acknowledges_nothing_and_changes_nothing(
    opener: Opener, data_dir: Path, *, is_made_again: bool
) -> None:
    """R1, R8: commits to the old directory would be lost; the new one has another owner."""
    store = await opener()
    writer = Writer("s-1", store.next_epoch())
    await committed(store, writer.commit(message("m1")))
    again = Writer.of(writer.head)
    moved = data_dir.with_name("moved")
    move(data_dir, moved)
    if is_made_again:
        with owner(data_dir):
            pass
    before = files_in(data_dir)
    assert isinstance(await answer_to(append(store, writer.commit(message("m2")))), StorageFailed)
    assert not await store.checkpoint()
    with pytest.raises(StorageFailed):
        await store.delete("s-1", writer.head.epoch)
    assert files_in(data_dir) == before
    shutil.rmtree(data_dir, ignore_errors=True)
    move(moved, data_dir)
    # Back in its place, the store works again.
    await committed(store, again.commit(message("m3")))
    assert await store.checkpoint()
    await abandon(store)
    assert await seqs(await opener(), "s-1") == [1, 2, 3]


def move(source: Path, target: Path) -> None:
    source.rename(target)


def files_in(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*"))
