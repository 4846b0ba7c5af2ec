"""Files in the application: what fails, races and is left behind."""

import errno
import random
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.errors import (
    BambooError,
    Gone,
    InvalidInput,
    LimitReached,
    NotFound,
    Refused,
    StorageFailed,
    StorageFull,
)
from bamboo_gateway.sessions.commands import NewMessage, NewSession
from bamboo_gateway.sessions.files.sweep import pause_seconds, sweep
from bamboo_gateway.sessions.files.uploads import NewFile
from bamboo_gateway.sessions.lifecycle.fork import Fork
from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.files.disk import DiskContents
from bamboo_gateway.storage.jsonl.doctor import check
from bamboo_gateway.storage.jsonl.store import JsonlStore
from tests.storage.faults import FaultyFileSystem
from tests.support.clocks import FakeClock
from tests.support.gateways import ME, Gateway, gateway
from tests.support.settings import given_settings

PNG = b"\x89PNG\r\n\x1a\n" + b"pixels" * 100
DAY_MS = 24 * 3600 * 1000
OTHER = Caller("other", user_id="other")


async def body(data: bytes, step: int = 1000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), step):
        yield data[start : start + step]


async def upload(gate: Gateway, data: bytes = PNG, caller: Caller = ME, **new: Any) -> str:
    outcome = await gate.manager.upload_file(
        caller, NewFile("a.png", "image/png", **new), body(data)
    )
    return str(outcome.answer["file_id"])


def naming(file_id: str, kind: str = "image") -> list[NewMessage]:
    return [NewMessage("user", [{"type": kind, "file_id": file_id}])]


async def read(gate: Gateway, file_id: str, caller: Caller = ME) -> bytes:
    file = await gate.manager.open_file(caller, file_id)
    return b"".join([piece async for piece in file.read(0, file.record.size)])


async def contents(gate: Gateway) -> int:
    return len(await gate.store.contents.contents())


def context(gate: Gateway) -> Any:
    return gate.manager._context


async def test_a_file_goes_a_day_after_the_last_session_that_names_it(gate: Gateway):
    kept, free = await upload(gate), await upload(gate, PNG + b"2")
    await gate.manager.create_session(ME, NewSession(id="a"))
    await gate.manager.add_messages(ME, "a", naming(kept))
    await gate.manager.fork(ME, "a", Fork(new_id="b"))
    gate.clock.advance(DAY_MS / 1000 + 1)
    assert (await sweep(context(gate))).files == 1
    with pytest.raises(NotFound):
        await gate.manager.open_file(ME, free)
    await gate.manager.delete_session(ME, "a")
    for _ in range(2):
        gate.clock.advance(DAY_MS / 1000 + 1)
        assert (await sweep(context(gate))).files == 0
    assert await read(gate, kept) == PNG
    await gate.manager.delete_session(ME, "b")
    # Only from the sweep that finds it unnamed does its last day begin.
    assert (await sweep(context(gate))).files == 0
    assert await read(gate, kept) == PNG
    gate.clock.advance(DAY_MS / 1000 + 1)
    swept = await sweep(context(gate))
    assert (swept.files, swept.bytes_freed, await contents(gate)) == (1, len(PNG), 0)


async def test_an_archived_session_keeps_its_files(gate: Gateway):
    file = await upload(gate)
    await gate.manager.create_session(ME, NewSession(id="a"))
    await gate.manager.add_messages(ME, "a", naming(file))
    await gate.manager.archive(ME, "a")
    for _ in range(3):
        gate.clock.advance(DAY_MS / 1000 + 1)
        await sweep(context(gate))
    assert await read(gate, file) == PNG
    await gate.manager.restore(ME, "a")
    assert (await gate.manager.get_session(ME, "a")).session["id"] == "a"


async def test_a_message_that_is_refused_keeps_no_file(gate: Gateway):
    file = await upload(gate)
    await gate.manager.create_session(ME, NewSession(id="a"))
    gate.store.fail_append()
    with pytest.raises(StorageFailed):
        await gate.manager.add_messages(ME, "a", naming(file))
    with pytest.raises(Refused):
        await gate.manager.delete_file(ME, file)  # it may be on its way
    gate.clock.advance(DAY_MS / 1000 + 1)
    await sweep(context(gate))
    gate.clock.advance(DAY_MS / 1000 + 1)
    assert (await sweep(context(gate))).files == 1


async def test_an_image_part_names_a_picture_only(gate: Gateway):
    outcome = await gate.manager.upload_file(ME, NewFile("a.svg", "image/svg+xml"), body(b"<svg/>"))
    file = outcome.answer["file_id"]
    await gate.manager.create_session(ME, NewSession(id="a"))
    with pytest.raises(InvalidInput) as refused:
        await gate.manager.add_messages(ME, "a", naming(file))
    assert refused.value.code == "not-an-image"
    await gate.manager.add_messages(ME, "a", naming(file, "file"))


async def test_a_deletion_and_a_message_that_names_the_file_come_one_after_the_other(gate: Gateway):
    """R9: the message is refused, or the deletion is; never a message without its file."""
    await gate.manager.create_session(ME, NewSession(id="a"))
    outcomes = set()
    chance = random.Random(7)
    for number in range(60):
        file = await upload(gate, PNG + b"%d" % number)
        results: dict[str, BambooError | None] = {}

        async def add(file: str = file, results: dict[str, Any] = results) -> None:
            for _ in range(chance.randrange(12)):
                await anyio.lowlevel.checkpoint()
            try:
                await gate.manager.add_messages(ME, "a", naming(file))
                results["add"] = None
            except InvalidInput as error:
                results["add"] = error

        async def delete(file: str = file, results: dict[str, Any] = results) -> None:
            for _ in range(chance.randrange(12)):
                await anyio.lowlevel.checkpoint()
            try:
                await gate.manager.delete_file(ME, file)
                results["delete"] = None
            except Refused as error:
                results["delete"] = error

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(add)
            tasks.start_soon(delete)
        assert (results["add"] is None) != (results["delete"] is None)
        if results["add"] is None:
            assert await read(gate, file) == PNG + b"%d" % number
        outcomes.add(results["add"] is None)
    assert outcomes == {True, False}


async def test_the_sweep_never_takes_a_file_that_is_being_named(gate: Gateway):
    await gate.manager.create_session(ME, NewSession(id="a"))
    chance = random.Random(3)
    outcomes = set()
    for number in range(40):
        file = await upload(gate, PNG + b"%d" % number)
        gate.clock.advance(DAY_MS / 1000 + 1)
        refused = False
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sweep, context(gate))
            for _ in range(chance.randrange(40)):
                await anyio.lowlevel.checkpoint()
            try:
                await gate.manager.add_messages(ME, "a", naming(file))
            except InvalidInput:
                refused = True
        if not refused:
            assert await read(gate, file) == PNG + b"%d" % number
        outcomes.add(refused)
    assert outcomes == {True, False}


async def test_uploads_of_one_content_at_the_same_time_store_it_once(gate: Gateway):
    files: list[str] = []

    async def one() -> None:
        files.append(await upload(gate))

    async with anyio.create_task_group() as tasks:
        for _ in range(12):
            tasks.start_soon(one)
    assert len(set(files)) == 12
    assert await contents(gate) == 1
    assert {await read(gate, file) for file in files} == {PNG}
    assert await context(gate).files.usage.totals() == (1, len(PNG))


async def test_a_repeat_at_the_same_time_is_one_file(gate: Gateway):
    files: set[str] = set()

    async def one() -> None:
        files.add(await upload(gate, key="k"))

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(one)
    assert len(files) == 1


async def test_an_erased_user_has_no_file_left_and_others_keep_theirs(gate: Gateway):
    one = Caller("one", user_id="one")
    mine, theirs = await upload(gate, caller=one), await upload(gate, caller=OTHER)
    await gate.manager.create_session(one, NewSession(id="a"))
    await gate.manager.add_messages(one, "a", naming(mine))
    assert (await gate.manager.erase_user("one", dry_run=True))["files"] == 1
    receipt = await gate.manager.erase_user("one")
    assert (receipt["files"], receipt["complete"]) == (1, True)
    with pytest.raises(NotFound):
        await gate.manager.open_file(ME, mine)
    assert await contents(gate) == 1
    assert await read(gate, theirs, OTHER) == PNG


async def test_an_erased_user_leaves_no_name_of_a_file_and_no_content(gate: Gateway):
    """Neither in what is kept for repeats, nor what an upload that failed has left behind."""
    one = Caller("one", user_id="one")
    await gate.manager.upload_file(one, NewFile("secret name", key="k"), body(b"a"))
    await gate.manager.upload_file(OTHER, NewFile("kept name", key="k"), body(b"a"))
    gate.store.fail("write_values", StorageFailed("The disk is broken."))
    with pytest.raises(StorageFailed):
        await upload(gate, caller=one)
    assert await contents(gate) == 3
    receipt = await gate.manager.erase_user("one")
    assert receipt["bytes_freed"] == 1 + len(PNG)
    said = [
        value
        for kind in await gate.store.value_kinds()
        for _, value in await gate.store.values(kind, limit=1000)
    ]
    assert not [value for value in said if b"secret name" in value]
    again = await gate.manager.upload_file(OTHER, NewFile("kept name", key="k"), body(b"a"))
    assert again.replayed
    assert await contents(gate) == 1
    assert await context(gate).files.usage.totals() == (1, 1)


async def test_of_uploads_at_the_same_time_only_those_that_fit_take_the_last_room():
    async with gateway(max_stored_bytes_per_user=2_500, max_stored_bytes=4_600) as gate:
        done: list[str] = []
        refused: list[str] = []

        async def one(caller: Caller, number: int) -> None:
            try:
                done.append(await upload(gate, PNG[:8] + bytes([number]) * 992, caller))
            except LimitReached as error:
                refused.append(error.code)

        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(one, Caller("one", user_id="one"), number)
                tasks.start_soon(one, OTHER, number)
        assert len(done) == 4
        assert set(refused) == {"storage-quota-reached"}
        assert await context(gate).files.usage.totals() == (4, 4_000)


async def test_a_repeat_is_answered_also_when_the_first_has_used_up_the_quota():
    """R9."""
    async with gateway(max_stored_bytes_per_user=len(PNG)) as gate:
        one = Caller("one", user_id="one")
        first = await upload(gate, caller=one, key="k")
        with pytest.raises(LimitReached):
            await upload(gate, caller=one, key="another")
        assert await upload(gate, caller=one, key="k") == first
        gate.clock.advance(DAY_MS // 1000 + 1)
        with pytest.raises(LimitReached):
            await upload(gate, caller=one, key="k")


async def test_a_count_sees_no_half_of_an_upload(gate: Gateway, monkeypatch: pytest.MonkeyPatch):
    """The content is there, and its upload waits for the disk: a count waits for its end."""
    usage = context(gate).files.usage
    is_there, may_end = anyio.Event(), anyio.Event()
    publish = type(gate.store.contents.writer()).publish

    async def slowly(writer: Any, owner: str) -> Any:
        name = await publish(writer, owner)
        is_there.set()
        await may_end.wait()
        return name

    monkeypatch.setattr(type(gate.store.contents.writer()), "publish", slowly)
    counted: list[tuple[int, int]] = []

    async def count() -> None:
        counted.append(await usage.totals())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(upload, gate)
        await is_there.wait()
        tasks.start_soon(count)
        await anyio.wait_all_tasks_blocked()
        may_end.set()
    assert counted == [(1, len(PNG))]
    assert await usage.totals() == (1, len(PNG))


async def test_a_count_is_made_again_after_an_upload_of_unknown_outcome(
    gate: Gateway, monkeypatch: pytest.MonkeyPatch
):
    usage = context(gate).files.usage
    assert await usage.totals() == (0, 0)
    publish = type(gate.store.contents.writer()).publish

    async def lost(writer: Any, owner: str) -> Any:
        await publish(writer, owner)
        raise StorageFailed("The answer was lost.")

    with monkeypatch.context() as patched:
        patched.setattr(type(gate.store.contents.writer()), "publish", lost)
        with pytest.raises(StorageFailed):
            await upload(gate)
    assert await usage.totals() == (1, len(PNG))
    await sweep(context(gate))
    assert await usage.totals() == (0, 0)


@pytest.mark.parametrize(
    ("retention", "cleanup", "expected"),
    [(86_400, 300, 3600), (86_400, 7_200, 7_200), (2_400, 60, 100), (0, 60, 60)],
)
def test_sweeps_come_seldom_beside_what_they_wait_for(
    retention: int, cleanup: int, expected: float
):
    settings = given_settings(file_retention_seconds=retention, cleanup_interval_seconds=cleanup)
    assert pause_seconds(settings) == expected


@pytest.fixture
def fs() -> FaultyFileSystem:
    return FaultyFileSystem()


@pytest.fixture
async def on_disk(tmp_path: Path, fs: FaultyFileSystem) -> AsyncIterator[Gateway]:
    """A gateway on files, whose file system fails on command."""
    clock = FakeClock()
    store = JsonlStore(tmp_path / "data", clock, fs=fs)
    await store.open()
    async with gateway(store, clock=clock) as running:
        yield running
    await store.aclose()


async def opened_again(directory: Path) -> SessionStore:
    store = JsonlStore(directory, FakeClock())
    await store.open()
    return store


@pytest.mark.parametrize(
    ("number", "expected"), [(errno.EIO, StorageFailed), (errno.ENOSPC, StorageFull)]
)
async def test_an_upload_whose_nth_call_fails_leaves_nothing_and_can_be_repeated(
    on_disk: Gateway,
    fs: FaultyFileSystem,
    tmp_path: Path,
    number: int,
    expected: type[BambooError],
):
    """R9: the Nth call of an upload fails, for each N, until none does."""
    failed = 0
    while True:
        count = 0

        def nth(_: int, operation: str, path: str, wanted: int = failed + 1) -> int | None:
            nonlocal count
            if "/files" not in path:
                return None
            count += 1
            return number if count == wanted else None

        fs.should_fail = nth
        data = PNG + b"%d" % failed
        try:
            await upload(on_disk, data)
        except expected:
            fs.should_fail = lambda *_: None
        else:
            break
        failed += 1
        # Nothing of it is named, and what may be there goes with the sweep.
        assert await on_disk.manager.list_files(ME) == ([], False)
        await sweep(context(on_disk))
        assert await contents(on_disk) == 0
        file = await upload(on_disk, data)
        assert await read(on_disk, file) == data
        await on_disk.manager.delete_file(ME, file)
    assert failed >= 5, "open, write, sync, rename, sync the directory"
    left = list((tmp_path / "data" / "files" / "aside").iterdir())
    assert left == []


async def test_a_torn_content_is_said_and_uploading_it_again_repairs_it(
    on_disk: Gateway, tmp_path: Path
):
    """R10."""
    file = await upload(on_disk)
    [path] = [one for one in (tmp_path / "data" / "files").rglob("*") if one.is_file()]
    path.write_bytes(PNG[:100])
    with pytest.raises(Gone) as said:
        await on_disk.manager.open_file(ME, file)
    assert said.value.code == "file-damaged"
    await upload(on_disk)
    assert await read(on_disk, file) == PNG


async def test_doctor_finds_a_flipped_byte_and_sets_the_content_aside(tmp_path: Path):
    """R10."""
    clock = FakeClock()
    store = JsonlStore(tmp_path / "data", clock)
    await store.open()
    async with gateway(store, clock=clock) as gate:
        file = await upload(gate)
    await store.aclose()
    [path] = [one for one in (tmp_path / "data" / "files").rglob("*") if one.is_file()]
    path.write_bytes(PNG[:-1] + b"!")
    found = check(tmp_path / "data", clock)
    assert [(one.severity, one.repaired) for one in found] == [("fail", False)]
    found = check(tmp_path / "data", clock, repair=True)
    assert [(one.severity, one.repaired) for one in found] == [("fail", True)]
    assert not path.exists()
    again = await opened_again(tmp_path / "data")
    async with gateway(again, clock=clock) as gate:
        with pytest.raises(Gone):
            await gate.manager.open_file(ME, file)
        await gate.manager.delete_file(ME, file)
    await again.aclose()
    assert list((tmp_path / "data" / "quarantine").glob("file-*")) == []


async def test_a_photo_of_20_mb_costs_the_log_300_bytes(on_disk: Gateway, tmp_path: Path):
    photo = PNG + b"\0" * (20_000_000 - len(PNG))
    outcome = await on_disk.manager.upload_file(
        ME, NewFile("holiday.png", "image/png"), body(photo, 256 * 1024)
    )
    await on_disk.manager.create_session(ME, NewSession(id="a"))
    text: list[dict[str, Any]] = [{"type": "text", "text": "look"}]
    await on_disk.manager.add_messages(ME, "a", [NewMessage("user", text)])
    before = (await on_disk.store.size("a")).stored_bytes
    await on_disk.manager.add_messages(ME, "a", [NewMessage("user", text)])
    plain = (await on_disk.store.size("a")).stored_bytes - before
    part = {"type": "image", "file_id": outcome.answer["file_id"]}
    await on_disk.manager.add_messages(ME, "a", [NewMessage("user", [*text, part])])
    with_photo = (await on_disk.store.size("a")).stored_bytes - before - plain
    assert with_photo - plain <= 300


async def test_a_start_removes_what_an_interrupted_upload_has_left(tmp_path: Path):
    store = await opened_again(tmp_path / "data")
    contents_of = store.contents
    assert isinstance(contents_of, DiskContents)
    writer = contents_of.writer()
    await writer.write(b"never finished")
    await store.aclose()
    assert len(list((tmp_path / "data" / "files" / "aside").iterdir())) == 1
    again = await opened_again(tmp_path / "data")
    assert list((tmp_path / "data" / "files" / "aside").iterdir()) == []
    with suppress(BambooError):
        await writer.discard()
    await again.aclose()


async def test_an_upload_whose_record_cannot_be_written_leaves_a_content_for_the_sweep(
    gate: Gateway,
):
    gate.store.fail("write_values", StorageFailed("The disk is broken."))
    with pytest.raises(StorageFailed):
        await upload(gate)
    assert await gate.manager.list_files(ME) == ([], False)
    assert (await sweep(context(gate))).contents == 1
    assert await contents(gate) == 0
    assert await context(gate).files.usage.totals() == (0, 0)


async def test_a_message_whose_reference_cannot_be_written_is_not_stored(gate: Gateway):
    """R9: the reference comes first."""
    file = await upload(gate)
    await gate.manager.create_session(ME, NewSession(id="a"))
    gate.store.fail("write_values", StorageFailed("The disk is broken."))
    with pytest.raises(StorageFailed):
        await gate.manager.add_messages(ME, "a", naming(file))
    assert (await gate.manager.messages(ME, "a")).messages == []
