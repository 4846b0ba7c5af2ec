"""R1, R3, R9: the Nth write, sync or truncation fails, for N = 1, 2, 3… until none is left to fail.

After each the process is killed. What was acknowledged is there, what was refused is not, and the
database is in order.
"""

import asyncio
import itertools
from contextlib import suppress
from pathlib import Path

import apsw
import pytest

from bamboo_gateway.domain.errors import BambooError, StorageFailed, StorageFull
from bamboo_gateway.storage.base import StoreUnusable
from bamboo_gateway.storage.reports import ValueChange
from bamboo_gateway.storage.sql.store import SqlStore
from tests.storage.sqlite.support import bodies, doctor, make, opened
from tests.storage.sqlite.vfs import OPERATIONS, Faults, faults, image_of
from tests.storage.writing import (
    Writer,
    answer_to,
    append,
    committed,
    complete,
    entries_of,
    message,
    run_start,
    seqs,
    token,
)


class Expected:
    """What a session may have: what was acknowledged, and nothing that was refused."""

    def __init__(self, store: SqlStore) -> None:
        self.store = store
        self.bodies: dict[str, list[bytes]] = {}
        # Deletions and creations whose call failed: either is right.
        self.unsure: set[str] = set()
        self.values: dict[str, bytes] = {}

    async def commit(self, writer: Writer, number: int) -> None:
        before = writer.head.copy()
        was_created = writer.created
        commit = writer.commit(message(f"m{number}", "x" * 3000), token(), note=f"k{number}")
        error = await answer_to(append(self.store, commit))
        if error is None:
            known = self.bodies.setdefault(writer.head.id, [])
            known += [event.body for event in commit.events]
        else:
            assert isinstance(error, StorageFailed | StorageFull), error
            writer.head, writer.created = before, was_created

    async def write(self, changes: dict[str, bytes | None]) -> None:
        made = [ValueChange("kind", key, value) for key, value in changes.items()]
        try:
            await self.store.write_values(made)
        except (StorageFailed, StorageFull):
            return
        kept = {**self.values, **changes}
        self.values = {key: value for key, value in kept.items() if value is not None}


async def scenario(store: SqlStore, expected: Expected) -> None:
    """Everything that writes."""
    one, two, gone = (Writer(name, store.next_epoch()) for name in ("one", "two", "gone"))
    for number in range(3):
        await expected.commit(one, number)
        await expected.commit(two, number)
    await expected.commit(gone, 0)
    epoch = one.head.epoch
    for change in (
        store.compact("one", epoch, one.head.seq),
        store.pack("two", two.head.epoch),
    ):
        with suppress(BambooError):
            await change
    if gone.created:
        expected.unsure.add("gone")
        with suppress(BambooError):
            await store.delete("gone", gone.head.epoch)
    history = Writer("history", store.next_epoch())
    commit = history.commit(*(message(f"h{number}") for number in range(10)))
    expected.unsure.add("history")
    with suppress(BambooError):
        async with store.creation("history", history.head.epoch) as creation:
            await creation.write(*entries_of(commit))
            await creation.publish(history.head)
    await expected.write({f"v{number}": b"x" * 2000 * number for number in range(5)})
    await expected.write({"v1": None, "v2": b"y" * 9000, "v9": b"z"})
    store._database.on_interval()
    await expected.write({"v2": None, "v3": b""})
    await expected.commit(one, 9)


async def assert_kept(path: Path, expected: Expected) -> None:
    assert [finding for finding in doctor(path) if finding.severity != "note"] == []
    async with opened(path) as store:
        for name, known in expected.bodies.items():
            if name in expected.unsure:
                continue
            found = await bodies(store, name)
            # Deltas may be compacted.
            lasting = [body for body in known if b'"token"' not in body]
            assert [body for body in found if b'"token"' not in body] == lasting, name
            assert set(found) <= set(known), name
            head = await store.load(name)
            assert head is not None
            assert head.message_count == len(lasting) - 1
        assert dict(await store.values("kind")) == expected.values
        history = await bodies(store, "history")
        assert len(history) in {0, 11}


def _refusal_of(store: SqlStore) -> BambooError | None:
    return store.refusal


def failing(vfs: Faults, nth: int, operation: str, error: type[apsw.Error], *, on: bool) -> None:
    """Fail the Nth of such calls, and with `on` all later ones too."""
    count = itertools.count(1)

    def should_fail(_number: int, called: str, file: str) -> apsw.Error | None:
        if called != operation or not file.startswith("s.db"):
            return None
        at = next(count)
        return error("injected") if at == nth or (on and at > nth) else None

    vfs.should_fail = should_fail


@pytest.mark.parametrize("on", [False, True], ids=["once", "for_good"])
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("error", [apsw.IOError, apsw.FullError], ids=["io", "full"])
async def test_some_calls_fail_and_nothing_acknowledged_is_lost(
    tmp_path: Path, error: type[apsw.Error], operation: str, on: bool
) -> None:
    await fail_calls(tmp_path, error, operation, on=on, step=17 if operation == "write" else 7)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("on", [False, True], ids=["once", "for_good"])
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_each_call_fails_and_nothing_acknowledged_is_lost(
    tmp_path: Path, operation: str, on: bool
) -> None:
    await fail_calls(tmp_path, apsw.IOError, operation, on=on, step=1)


async def fail_calls(
    tmp_path: Path, error: type[apsw.Error], operation: str, *, on: bool, step: int
) -> None:
    if operation != "write" and error is apsw.FullError:
        pytest.skip("a disk is full when it is written to")
    for nth in itertools.count(1, step):
        at = tmp_path / str(nth)
        with faults() as vfs:
            store = make(at / "data" / "s.db")
            await store.open()
            expected = Expected(store)
            calls = vfs.calls
            failing(vfs, nth, operation, error, on=on)
            await scenario(store, expected)
            is_over = vfs.calls - calls < nth and not on
            image = image_of(at / "data" / "s.db", at / "image")
            vfs.should_fail = lambda *_: None
            await store.aclose()
        if not on or operation != "sync":
            # With syncs that fail for good nothing can say what a power loss leaves.
            await assert_kept(image, expected)
        if is_over or nth > (40 if on else 200):
            return


async def test_a_commit_whose_sync_failed_does_not_come_back_after_a_crash(
    tmp_path: Path,
) -> None:
    """R3: its frames are whole in the WAL, and its positions are given to others."""
    path = tmp_path / "one" / "s.db"
    with faults() as vfs:
        async with opened(path) as store:
            writer = Writer("a", store.next_epoch())
            await committed(store, writer.commit())
            before = writer.head.copy()
            failing(vfs, 1, "sync", apsw.IOError, on=False)
            refused = writer.commit(message("refused"), token())
            assert isinstance(await answer_to(append(store, refused)), StorageFailed)
            image = image_of(path, tmp_path / "image")
            writer.head = before
            assert await seqs(store, "a") == [1]
            await committed(store, writer.commit(token("other")))
            assert await seqs(store, "a") == [1, 2]
    async with opened(image) as again:
        assert await seqs(again, "a") == [1]


async def test_the_nth_call_while_opening_fails_with_one_line(tmp_path: Path) -> None:
    for nth in itertools.count(1, 5):
        path = tmp_path / str(nth) / "s.db"
        with faults() as vfs:
            failing(vfs, nth, "write", apsw.IOError, on=False)
            store = make(path)
            try:
                await store.open()
            except StoreUnusable as error:
                failure = error
            else:
                await store.aclose()
                return
            assert "\n" not in failure.detail
            vfs.should_fail = lambda *_: None
            async with opened(path) as again:
                await committed(again, Writer("a", again.next_epoch()).commit(token()))


async def test_a_full_disk_refuses_writes_and_takes_endings_and_reads(tmp_path: Path) -> None:
    """R5: a run that was going on gets its end; what frees space lets writes in again."""
    with faults() as vfs:
        async with opened(tmp_path / "s.db") as store:
            writer = Writer("a", store.next_epoch())
            await committed(store, writer.commit(run_start("r"), message("m")))
            reserve = tmp_path / "s.db-reserve"
            assert reserve.stat().st_size > 1 << 20

            def full(_number: int, called: str, _file: str) -> apsw.Error | None:
                return (
                    apsw.FullError("injected") if called == "write" and reserve.exists() else None
                )

            vfs.should_fail = full
            before = writer.head.copy()
            error = await answer_to(append(store, writer.commit(token("refused"))))
            assert isinstance(error, StorageFull)
            assert isinstance(store.refusal, StorageFull)
            assert await seqs(store, "a") == [1, 2, 3]
            writer.head = before
            await committed(store, writer.commit(complete("r"), reserve=True))
            assert not reserve.exists()
            assert await seqs(store, "a") == [1, 2, 3, 4]
            assert isinstance(store.refusal, StorageFull)
            vfs.should_fail = lambda *_: None
            store._database.on_interval()
            assert _refusal_of(store) is None
            assert reserve.exists()
            await committed(store, writer.commit(token("again")))


async def test_a_commit_that_cannot_be_stored_fails_alone(tmp_path: Path) -> None:
    """R10: the others of its batch are stored."""
    async with opened(tmp_path / "s.db") as store:
        writers = [Writer(f"s-{number}", store.next_epoch()) for number in range(20)]
        commits = [writer.commit(message("m")) for writer in writers]
        bad = commits[7].events[1]
        commits[7] = commits[7]._replace(events=[commits[7].events[0], bad._replace(seq=1 << 70)])
        answers = await asyncio.gather(*(append(store, commit) for commit in commits))
        assert [number for number, answer in enumerate(answers) if answer is not None] == [7]
        assert isinstance(answers[7], StorageFailed)
        for number, writer in enumerate(writers):
            assert await seqs(store, writer.head.id if number != 7 else "s-0") == [1, 2]
        assert await store.load("s-7") is None


async def test_a_commit_takes_the_place_of_an_extension_that_is_not_published(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path / "s.db") as store:
        writer, other = Writer("a", store.next_epoch()), Writer("b", store.next_epoch())
        await committed(store, writer.commit())
        await committed(store, other.commit())
        late = Writer.of(writer.head)
        extension = store.extension("a", writer.head.epoch, 1)
        await extension.write(*entries_of(late.commit(message("late"), note="late")))
        answers = await asyncio.gather(
            append(store, other.commit(token())),
            append(store, writer.commit(message("m"), note="k")),
        )
        assert list(answers) == [None, None]
        with pytest.raises(BambooError):
            await extension.publish(late.head)
        await extension.discard()
        [found] = await store.find("a", writer.head.epoch, "message")
        assert b'"m"' in found.body
        [note] = await store.find("a", writer.head.epoch, "note")
        assert b'"k"' in note.body
    assert doctor(tmp_path / "s.db") == []


async def test_on_a_full_disk_a_deletion_frees_space(tmp_path: Path) -> None:
    with faults() as vfs:
        async with opened(tmp_path / "s.db") as store:
            writer = Writer("a", store.next_epoch())
            await committed(store, writer.commit(message("m")))
            reserve = tmp_path / "s.db-reserve"

            def full(_number: int, called: str, _file: str) -> apsw.Error | None:
                is_full = called == "write" and reserve.exists()
                return apsw.FullError("injected") if is_full else None

            vfs.should_fail = full
            assert await store.delete("a", writer.head.epoch) > 0
            assert await store.load("a") is None
