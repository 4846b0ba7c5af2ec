"""R1, R3, R9, R10: the store crashes at every one of its changes to the disk.

Right before each change of a script (or in the middle of a write) the test keeps the files as
`kill -9` would leave them, as a power loss would, and as a power loss in the middle of the kernel's
own writing would. Files that several crashes leave alike, with the same promises, are checked once.
"""

import asyncio
import copy
import random
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import pytest

from bamboo_gateway.domain import codec
from bamboo_gateway.domain.errors import Conflict
from bamboo_gateway.domain.projections import fold
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.base import ChangesLost
from bamboo_gateway.storage.commits import Commit, Record
from bamboo_gateway.storage.jsonl.store import JsonlStore
from tests.storage.faults import Image, VolatileFileSystem, abandon, files_of
from tests.storage.writing import (
    DEADLINE_SECONDS,
    StepClock,
    Writer,
    append,
    bodies_of,
    committed,
    complete,
    everything,
    marks_of,
    message,
    run_start,
    token,
)


class History:
    """The requests to the store, and those that it acknowledged, in order."""

    def __init__(self) -> None:
        # (session, epoch) → its commits; and how many of them, and of deletions, were acknowledged.
        self.given: dict[tuple[str, int], list[Commit]] = {}
        self.acked: dict[tuple[str, int], int] = {}
        self.deletion_given: set[tuple[str, int]] = set()
        self.deleted: set[tuple[str, int]] = set()
        self.frozen: tuple[dict[tuple[str, int], int], set[tuple[str, int]]] | None = None
        # What somebody knows who asks for changes after each answer: the feed, the number, and the
        # last that was told of each session.
        self.feed, self.number = "", 0
        self.told: dict[str, SessionHead | None] = {}

    def freeze(self) -> None:
        self.frozen = (dict(self.acked), set(self.deleted))

    def at_crash(self) -> Self:
        """Return what was acknowledged until now, beside what is requested until the end."""
        crashed = copy.copy(self)
        crashed.told = dict(self.told)
        crashed.freeze()
        return crashed

    async def commit(self, store: JsonlStore, commit: Commit) -> None:
        key = (commit.session_id, commit.epoch)
        self.given.setdefault(key, []).append(commit)
        await committed(store, commit)
        self.acked[key] = self.acked.get(key, 0) + 1
        await self.follow(store)

    async def delete(self, store: JsonlStore, writer: Writer) -> None:
        key = (writer.head.id, writer.head.epoch)
        self.deletion_given.add(key)
        await store.delete(*key)
        self.deleted.add(key)
        await self.follow(store)

    async def follow(self, store: JsonlStore) -> None:
        """Ask for changes, in small pages."""
        if not self.feed:
            self.feed, self.number = await store.last_change()
            self.told |= {one.id: one.own_head() for one in store._catalog.entries.values()}
        while True:
            page = await store.changes(self.feed, self.number, 1)
            self.told |= {change.session_id: change.head for change in page.changes}
            assert page.last >= self.number
            self.number = page.last
            if not page.has_more:
                return


async def script(store: JsonlStore, clock: StepClock, history: History) -> None:
    """Make all kinds of changes, with a checkpoint in the middle."""
    one = Writer("one", store.next_epoch())
    two = Writer("Two", store.next_epoch())
    await history.commit(store, one.commit(message("m1"), note="key1"))
    await history.commit(store, two.commit())
    await history.commit(store, one.commit(run_start("run_1"), token("a"), token("b")))
    await asyncio.gather(
        history.commit(store, one.commit(token("c"))),
        history.commit(store, two.commit(message("m2", "x" * 700))),
    )
    await store.checkpoint()
    await history.commit(store, one.commit(token("d"), message("m3"), complete("run_1")))
    await history.delete(store, two)
    again = Writer("Two", store.next_epoch())
    await history.commit(store, again.commit(message("m4")))
    await store.release("one")
    await store.checkpoint()
    await history.commit(store, again.commit(token("e"), note="key2"))
    await history.commit(store, one.commit(token("f")))
    await history.delete(store, one)
    await history.commit(store, again.commit(message("m5")))


async def crashes(root: Path) -> list[tuple[Image, History]]:
    """Run the script; return what each crash leaves, from the first change to the last."""
    fs, clock, history = VolatileFileSystem(root), StepClock(), History()
    found: list[tuple[Image, History]] = []
    fs.before_change = lambda: found.append((fs.take_image(), history.at_crash()))
    store = JsonlStore(root, clock, fs=fs)
    await store.open()
    await script(store, clock, history)
    await store.aclose()
    return found


async def check(
    root: Path, history: History, *, new_epochs: bool = False, may_lose_changes: bool = False
) -> None:
    """Open the remaining files, compare them with the promises, and go on writing."""
    assert history.frozen is not None
    acked, deleted = history.frozen
    clock = StepClock()
    store = JsonlStore(root, clock, fs=VolatileFileSystem(root))
    report = await store.open()
    try:
        if not new_epochs:
            assert report.damaged == []
        listed = sorted(store._catalog.entries)
        for session_id in ("one", "Two"):
            lives = [key for key in history.given if key[0] == session_id]
            head = await store.load(session_id)
            assert (head is not None) == (session_id in listed)
            if head is None:
                for key in lives:
                    assert not acked.get(key) or key in history.deletion_given
                continue
            key = (session_id, head.epoch)
            assert key in lives
            # R3: what was said to be gone does not come back.
            assert key not in deleted
            for older in lives[: lives.index(key)]:
                assert not acked.get(older) or older in history.deletion_given
            for newer in lives[lives.index(key) + 1 :]:
                assert not acked.get(newer)
            await check_log(store, head, history.given[key], acked.get(key, 0))
        if not new_epochs:
            # A catalog that a power loss has torn in the middle is made again from the logs, and
            # begins a new feed: its numbers may have been given for other changes.
            is_new_feed = may_lose_changes or report.catalog_rebuilt
            with suppress(*([ChangesLost] if is_new_feed else [])):
                await check_changes(store, history.at_crash())
        await check_going_on(store)
    finally:
        await abandon(store)


async def check_changes(store: JsonlStore, history: History) -> None:
    """Who has asked for changes before the crash goes on, and learns all that was acknowledged."""
    if history.feed:
        await history.follow(store)
        known = {name: head for name, head in history.told.items() if head is not None}
        assert known.keys() == store._catalog.entries.keys()
        for name, head in known.items():
            now = store._catalog.entries[name].own_head()
            # Deltas are not told.
            head.seq, head.last_activity_at = now.seq, now.last_activity_at
            assert head == now


async def check_log(store: JsonlStore, head: SessionHead, given: list[Commit], acked: int) -> None:
    """The log has all acknowledged commits, and perhaps some pending ones, each whole."""
    records = await everything(store, head.id)
    wholes = [bodies_of(*given[:kept]) for kept in range(len(given) + 1)]
    bodies = [record.body for record in records]
    matches = [kept for kept in range(acked, len(given) + 1) if wholes[kept] == bodies]
    assert matches, f"{len(records)} events; {acked} of {len(given)} commits were acknowledged"
    assert [record.seq for record in records] == list(range(1, len(records) + 1))
    folded = SessionHead(head.id, head.epoch)
    for record in records:
        fold(folded, codec.decode(record.body))
    assert head == folded
    assert (head.id in await store.unfinished()) == bool(head.active)
    expected = marked(given[: matches[-1]])
    notes = {key for kind, key in expected if kind == "note"}
    for kind, key in expected:
        found = await store.find(head.id, head.epoch, kind, key=key)  # type: ignore[arg-type]
        if key in notes and acked < matches[-1]:
            continue
        assert found, (kind, key)
    by_kind = await store.find(head.id, head.epoch, "message")
    assert [record.seq for record in by_kind] == message_seqs(records)


def marked(commits: list[Commit]) -> list[tuple[str, str]]:
    return [(kind, key) for kind, key, _ in marks_of(*commits)]


def message_seqs(records: list[Record]) -> list[int]:
    return [record.seq for record in records if codec.decode(record.body)["type"] == "message"]


async def check_going_on(store: JsonlStore) -> None:
    for session_id in list(store._catalog.entries):
        head = await store.load(session_id)
        assert head is not None
        writer = Writer.of(head)
        await committed(store, writer.commit(token("after"), message("after")))
        assert (await everything(store, session_id))[-1].seq == head.seq + 2
        found = await store.find(session_id, head.epoch, "message", reverse=True, limit=1)
        assert codec.decode(found[0].body)["message"]["id"] == "after"
    await committed(store, Writer("fresh", store.next_epoch()).commit())
    for session_id in ("one", "Two"):
        late = Writer(session_id, 5)
        late.created = True
        assert isinstance(await append(store, late.commit(token())), Conflict)


@pytest.fixture(params=[0, DEADLINE_SECONDS], ids=["written", "lagging"], autouse=True)
def logs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The committer writes logs whenever it is idle, or checkpoints alone write them."""
    monkeypatch.setattr(
        "bamboo_gateway.storage.jsonl.journal.committer._REST_SECONDS", request.param
    )


@pytest.mark.parametrize("part", range(4))
def test_a_crash_after_any_disk_change_keeps_acknowledged_commits_whole(
    tmp_path: Path, part: int
) -> None:
    root = tmp_path / "data"
    found = asyncio.run(crashes(root))
    assert len(found) > 80
    seen = set()
    # Neighbours leave the same files most often.
    for crash_at in range(len(found) * part // 4, len(found) * (part + 1) // 4):
        image, history = found[crash_at]
        ways: list[dict[str, Any]] = [
            {"power_lost": False},
            {"power_lost": True},
            {"power_lost": True, "chance": random.Random(crash_at)},
        ]
        for way in ways:
            image.restore(root, **way)
            left = (files_of(root), str(history.frozen))
            if left in seen:
                continue
            seen.add(left)
            try:
                asyncio.run(check(root, history))
            except BaseException as error:
                error.add_note(f"crash at change {crash_at}, {way}")
                raise


@pytest.mark.parametrize("part", range(2))
def test_a_crash_during_recovery_changes_nothing(tmp_path: Path, part: int) -> None:
    root = tmp_path / "data"
    found = asyncio.run(crashes(root))
    for crash_at in range(3 + 5 * part, len(found), 10):
        image, history = found[crash_at]
        image.restore(root, power_lost=True, chance=random.Random(crash_at))
        asyncio.run(recover_in_pieces(root))
        try:
            # One of the recoveries before may have made the catalog again.
            asyncio.run(check(root, history, may_lose_changes=True))
        except BaseException as error:
            error.add_note(f"crash at change {crash_at}")
            raise


async def recover_in_pieces(root: Path) -> None:
    """Recover repeatedly; each time the power is lost a little later."""
    for crash_at in range(1, 60, 2):
        fs = VolatileFileSystem(root, crash_at)
        store = JsonlStore(root, StepClock(), fs=fs)
        await store.open()
        await abandon(store)
        if fs.image is None:
            return
        fs.image.restore(root, power_lost=True, chance=random.Random(crash_at))
