"""Migrations between stores: everything arrives, whatever interrupts them (R2, R3, R9)."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from bamboo_gateway.domain.errors import BambooError, StorageFailed, StorageFull
from bamboo_gateway.storage.base import SessionCreation, SessionStore, StoreBusy, StoreUnusable
from bamboo_gateway.storage.commits import MarkKind, Record
from bamboo_gateway.storage.migration.migrate import MigrationFailed, migrate, survey
from bamboo_gateway.storage.migration.reading import LogReader, sessions_of
from tests.contract.conftest import storage_url
from tests.storage.migrating import ARCHIVED, Place, fill
from tests.storage.writing import StepClock, Writer, committed, everything, message, note_of
from tests.support.stores import FaultyStore

KINDS = ("memory:", "jsonl:", "sqlite:", "postgresql")
MARK_KINDS: tuple[MarkKind, ...] = ("message", "run", "note")


@pytest.fixture
def clock() -> StepClock:
    return StepClock()


def place(kind: str, directory: Path, clock: StepClock, request: pytest.FixtureRequest) -> Place:
    url = storage_url(request, kind) if kind == "postgresql" else kind
    return Place.at(url, directory, clock)


@pytest.fixture(params=KINDS)
def source(request: pytest.FixtureRequest, tmp_path: Path, clock: StepClock) -> Place:
    return place(request.param, tmp_path / "source", clock, request)


@pytest.fixture(params=KINDS)
def target(request: pytest.FixtureRequest, tmp_path: Path, clock: StepClock) -> Place:
    if request.param == "postgresql" and "source" in request.fixturenames:
        source = request.node.callspec.params.get("source")
        if source == "postgresql":
            pytest.skip("one database of a test is its source")
    return place(request.param, tmp_path / "target", clock, request)


@pytest.fixture
def files(tmp_path: Path, clock: StepClock) -> Place:
    return Place.at("jsonl:", tmp_path / "files", clock)


async def contents(store: SessionStore) -> dict[str, Any]:
    """Return all that a store says of its sessions, by every way to ask."""
    found: dict[str, Any] = {"usage": (await store.usage()).sessions}
    found["unfinished"] = sorted(await store.unfinished())
    found["unpacked"] = await store.unpacked_archives()
    found["values"] = {
        kind: await store.values(kind, limit=10_000) for kind in await store.value_kinds()
    }
    found["no key"] = await store.value("x", "")
    async for head in sessions_of(store):
        assert await store.load(head.id) == head
        marked: dict[MarkKind, list[Record]] = {}
        for kind in MARK_KINDS:
            marked[kind] = list(
                await store.find(head.id, head.epoch, kind, after=-1, limit=10**6, max_bytes=10**9)
            )
        log = await everything(store, head.id)
        found[head.id] = (head, log, marked, await store.delta_bytes(head.id) > 0)
    return found


async def migrated(source: Place, target: Place) -> dict[str, Any]:
    """Migrate; return what the source has."""
    async with source.opened() as store:
        await migrate(store, target.make, "there")
        return await contents(store)


async def test_everything_arrives_as_it_was(source: Place, target: Place) -> None:
    steps: list[tuple[str, int, int]] = []
    async with source.opened() as store:
        await fill(store)
        foretold = await survey(store)
        expected = await contents(store)
        feed, _ = await store.last_change()
        done = await migrate(store, target.make, "there", lambda *step: steps.append(step))
        assert await contents(store) == expected, "the source stays as it is"
    async with target.opened() as store:
        assert await contents(store) == expected
        # Numbers of the source mean nothing here.
        assert (await store.last_change())[0] != feed
        reader = LogReader(store)
        await reader.refresh()
        assert [await reader.digest(one.session_id) for one in done.digests] == done.digests
    assert len(expected["noted"][2]["note"]) == 3 * 701
    sessions = expected["usage"]
    assert (foretold.sessions, foretold.archives, foretold.notes) == (sessions, 2 - 1, done.notes)
    assert (done.sessions, done.archives, done.kept) == (sessions, 1, 0)
    assert (foretold.values, done.values) == (541, 541)
    assert done.events == sum(len(one[1]) for one in expected.values() if isinstance(one, tuple))
    assert steps[0] == ("copying", 0, sessions)
    assert steps[-1] == ("comparing", sessions, sessions)


async def test_an_epoch_that_the_source_has_used_is_not_given_again(
    source: Place, files: Place, clock: StepClock
) -> None:
    """R3: also when the clock goes back, and when the session of that epoch is gone."""
    now = clock.ms
    clock.ms = now + 10_000_000
    async with source.opened() as store:
        gone = Writer("gone", store.next_epoch())
        await committed(store, gone.commit())
        await store.delete("gone", gone.head.epoch)
        clock.ms = now
        await committed(store, Writer("stays", store.next_epoch()).commit())
    await migrated(source, files)
    async with files.opened() as store:
        assert store.next_epoch() > gone.head.epoch + 1


class Broken(FaultyStore):
    """A store whose Nth change on the way of a migration fails."""

    def __init__(self, inner: SessionStore, left: list[int], error: BambooError) -> None:
        super().__init__(inner)
        self._left = left
        self._error = error

    def step(self) -> None:
        self._left[0] -= 1
        if self._left[0] < 0:
            raise self._error

    async def check_vacant(self, origin: str) -> None:
        await self.inner.check_vacant(origin)  # type: ignore[attr-defined]

    async def begin_migration(self, origin: str) -> Any:
        return await self.inner.begin_migration(origin)  # type: ignore[attr-defined]

    async def end_migration(self, last_epoch: int) -> None:
        self.step()
        await self.inner.end_migration(last_epoch)  # type: ignore[attr-defined]

    @override
    def creation(self, session_id: str, epoch: int) -> SessionCreation:
        return _BrokenCreation(self, self.inner.creation(session_id, epoch))

    @override
    async def pack(self, session_id: str, epoch: int) -> None:
        self.step()
        await self.inner.pack(session_id, epoch)


class _BrokenCreation(SessionCreation):
    def __init__(self, store: Broken, inner: SessionCreation) -> None:
        self._store = store
        self._inner = inner

    @override
    async def write(self, events: Any, notes: Any = ()) -> None:
        self._store.step()
        await self._inner.write(events, notes)

    @override
    async def publish(self, head: Any) -> None:
        self._store.step()
        await self._inner.publish(head)

    @override
    async def discard(self) -> None:
        await self._inner.discard()


@pytest.mark.parametrize("error", [StorageFull("The disk is full."), StorageFailed("Broken.")])
async def test_a_migration_goes_on_wherever_it_failed(
    target: Place, files: Place, error: BambooError
) -> None:
    async with files.opened() as store:
        await fill(store)
    left = [0]
    failed = 0
    while True:
        left[0] = 1 + failed
        try:
            await migrated(files, Place(lambda: Broken(target.make(), left, error)))
            break
        except type(error):
            failed += 1
        # Nobody serves what is not whole.
        with pytest.raises(StoreUnusable, match="the target of a migration from there"):
            await target.make().open()
    assert failed > 5
    async with files.opened() as ours, target.opened() as theirs:
        assert await contents(theirs) == await contents(ours)


async def test_what_changes_at_the_source_meanwhile_is_brought_along(
    source: Place, target: Place
) -> None:
    """Somebody started the gateway again, between a migration that failed and its repetition."""
    async with source.opened() as store:
        await fill(store)
        left = [0]
        broken = Place(lambda: Broken(target.make(), left, StorageFailed("Broken.")))
        # All is copied, and the last step fails.
        left[0] = await _steps_of(store)
        with pytest.raises(StorageFailed):
            await migrate(store, broken.make, "there")
        heads = {head.id: head async for head in sessions_of(store)}
        await committed(store, Writer.of(heads["plain"]).commit(message("new")))
        await committed(store, Writer.of(heads["long"]).commit(note="alone"))
        await store.compact("compacted", heads["compacted"].epoch, heads["compacted"].seq)
        await store.delete("open", heads["open"].epoch)
        await store.delete("queued", heads["queued"].epoch)
        await committed(store, Writer("queued", store.next_epoch()).commit(message("again")))
        await committed(store, Writer("new", store.next_epoch()).commit())
        await store.pack("not-packed", heads["not-packed"].epoch)
        await committed(store, Writer.of(heads["noted"]).commit(ARCHIVED))
        await store.pack("noted", heads["noted"].epoch)
        done = await migrate(store, target.make, "there")
        assert 0 < done.kept < done.sessions
        expected = await contents(store)
    async with target.opened() as store:
        assert await contents(store) == expected


async def _steps_of(store: SessionStore) -> int:
    """Return after how many steps everything is copied."""
    counted = [0]

    class Counting(Broken):
        @override
        def step(self) -> None:
            counted[0] += 1

    place = Place.at("memory:", Path("/nowhere"), StepClock())
    await migrate(store, lambda: Counting(place.make(), [], StorageFailed("")), "there")
    return counted[0] - 1


@pytest.mark.parametrize("what", ["event", "note", "head", "packed", "seq"])
async def test_a_difference_fails_and_says_where(files: Place, target: Place, what: str) -> None:
    async with files.opened() as store:
        for name in ("a", "b"):
            writer = Writer(name, store.next_epoch())
            await committed(store, writer.commit(message("m"), note="n"))
            await committed(store, writer.commit(ARCHIVED))
            await store.pack(name, writer.head.epoch)

    class Lying(Broken):
        @override
        async def read(self, session_id: str, *arguments: Any, **more: Any) -> list[Record]:
            page = await super().read(session_id, *arguments, **more)
            if session_id == "b" and what == "event" and page:
                page[0] = page[0]._replace(body=page[0].body.replace(b"ann", b"amn") + b" ")
            if session_id == "b" and what == "seq" and len(page) > 1:
                page[0] = page[0]._replace(seq=page[1].seq)
            return page

        @override
        async def find(self, session_id: str, *arguments: Any, **more: Any) -> Any:
            found = await super().find(session_id, *arguments, **more)
            if session_id == "b" and what == "note":
                found[:] = found[1:]
            return found

        @override
        async def load(self, session_id: str) -> Any:
            head = await super().load(session_id)
            if head is not None and session_id == "b" and what == "head":
                head.title = "another"
            return head

        @override
        async def unpacked_archives(self) -> list[str]:
            return ["b"] if what == "packed" else []

    lying = Place(lambda: Lying(target.make(), [10**6], StorageFailed("")))
    with pytest.raises(MigrationFailed, match=r"1 sessions differ .*: b\."):
        await migrated(files, lying)
    with pytest.raises(StoreUnusable, match="has not ended"):
        await target.make().open()
    # What was wrong was the way to look: with eyes that see, all is well.
    expected = await migrated(files, target)
    async with target.opened() as store:
        assert await contents(store) == expected


async def test_a_target_with_sessions_or_of_another_migration_is_refused_and_stays_as_it_is(
    files: Place, target: Place
) -> None:
    async with files.opened() as store:
        await committed(store, Writer("ours", store.next_epoch()).commit())
    async with target.opened() as store:
        await committed(store, Writer("theirs", store.next_epoch()).commit())
        before = await contents(store)
    with pytest.raises(StoreUnusable, match="is not empty: it has 1 sessions"):
        await migrated(files, target)
    async with target.opened() as store:
        assert await contents(store) == before
        await store.delete("theirs", before["theirs"][0].epoch)
    left = [1]
    with pytest.raises(StorageFailed):
        await migrated(files, Place(lambda: Broken(target.make(), left, StorageFailed("Broken."))))
    async with files.opened() as store:
        with pytest.raises(StoreUnusable, match="of another migration, from there"):
            await migrate(store, target.make, "elsewhere")
    await migrated(files, target)


async def test_a_source_or_target_in_use_is_refused(files: Place, tmp_path: Path) -> None:
    there = Place.at("jsonl:", tmp_path / "there", StepClock())
    async with files.opened() as store:
        await committed(store, Writer("s", store.next_epoch()).commit())
        with pytest.raises(StoreBusy):
            async with files.opened():
                pass
        async with there.opened():
            with pytest.raises(StoreBusy):
                await migrate(store, there.make, "x")
        # It was not marked: it can be opened.
        async with there.opened():
            pass


async def test_notes_are_copied_where_a_search_cuts_the_notes_of_one_seq(
    files: Place, target: Place
) -> None:
    async with files.opened() as store:
        writer = Writer("s", store.next_epoch())
        async with store.creation("s", writer.head.epoch) as creation:
            commit = writer.commit(*(message(f"m{number}") for number in range(6)))
            notes = [
                note_of(seq, f"{seq}-{number}")
                for seq in range(1, 8)
                for number in range(seq * 200)
            ]
            await creation.write(commit.events, notes)
            await creation.publish(writer.head)
    expected = await migrated(files, target)
    assert len(expected["s"][2]["note"]) == len(notes) == 5600
    async with target.opened() as store:
        assert await contents(store) == expected


async def test_from_files_over_two_databases_and_back_nothing_has_changed(
    files: Place, tmp_path: Path, clock: StepClock, request: pytest.FixtureRequest
) -> None:
    async with files.opened() as store:
        await fill(store)
        expected = await contents(store)
    places = [
        files,
        place("sqlite:", tmp_path / "one", clock, request),
        place("postgresql", tmp_path / "two", clock, request),
        place("jsonl:", tmp_path / "three", clock, request),
    ]
    for source, target in pairwise(places):
        assert await migrated(source, target) == expected
    async with places[-1].opened() as store:
        assert await contents(store) == expected
    logs = [
        {path.name: path.read_bytes().split(b"\n", 1)[1] for path in root.glob("*.jsonl")}
        for root in (tmp_path / "files" / "events", tmp_path / "three" / "events")
    ]
    assert logs[0]
    assert logs[0] == logs[1]
