"""Two processes on one real PostgreSQL, in any order, beside a model of what the database has.

Each process does what a gateway does: it looks at the session, and commits what it has decided on
what it saw. What it saw may be old. Some commits lose their connection around their COMMIT, perhaps
with a commit of the other process in between. After each step

- both processes read the same head and the same log, and these are the model's;
- a position that was ever there has the content that it had, also after a deletion.
"""

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from bamboo_gateway.domain.errors import BambooError, Conflict, StorageFailed
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.commits import Commit
from bamboo_gateway.storage.sql.postgresql.store import PostgresStore
from tests.cluster.sharing import cut_once, started
from tests.storage.postgresql.conftest import open_store
from tests.storage.writing import (
    DEADLINE_SECONDS,
    Writer,
    answer_to,
    append,
    complete,
    everything,
    message,
    token,
)
from tests.support.postgres import execute
from tests.support.postgres_proxy import Cut, PostgresProxy
from tests.support.waiting import until_true

T = TypeVar("T")
WHICH = st.sampled_from([0, 1])
WISH = {"type": "cancelled", "reason": "somebody wishes it"}


@dataclass
class Row:
    """What the database has of the session.

    Attributes:
        executor: Who executes its active run; None without a run.
    """

    epoch: int
    version: int
    bodies: list[bytes]
    is_packed: bool = False
    executor: str | None = None
    is_wished: bool = False


@dataclass
class World:
    """What all examples share: each has a session of its own."""

    runner: asyncio.Runner
    url: str
    proxy: PostgresProxy
    stores: tuple[PostgresStore, PostgresStore]
    examples: int = 0
    bodies_at: dict[tuple[str, int, int], bytes] = field(default_factory=dict)


class Machine(RuleBasedStateMachine):
    """The session `name`, as the database has it (`row`) and as each process saw it last."""

    world: ClassVar[World]

    def __init__(self) -> None:
        super().__init__()
        self.world.examples += 1
        self.name = f"s-{self.world.examples}"
        self.row: Row | None = None
        self.seen: list[SessionHead | None] = [None, None]
        self.last_epoch = 0
        self.count = 0

    def run(self, awaitable: Coroutine[Any, Any, T]) -> T:
        return self.world.runner.run(asyncio.wait_for(awaitable, 2 * DEADLINE_SECONDS))

    def text(self) -> dict[str, Any]:
        self.count += 1
        return message(f"m{self.count}")

    def is_current(self, which: int) -> bool:
        head, row = self.seen[which], self.row
        if head is None or row is None or row.is_packed:
            return False
        return (head.epoch, head.version) == (row.epoch, row.version)

    def writer(self, which: int) -> Writer:
        """Return what decides on what a process saw."""
        head = self.seen[which]
        assert head is not None  # a precondition of the rules
        return Writer.of(head)

    def take(self, which: int, commit: Commit, error: BambooError | None, *, fits: bool) -> None:
        """Check the answer to a commit, and let the model have it."""
        if not fits:
            assert isinstance(error, Conflict), error
            return
        assert error is None, error
        row = self.row
        if commit.create:
            row = self.row = Row(commit.epoch, 0, [])
        assert row is not None
        row.version += 1
        row.bodies += [event.body for event in commit.events]
        if commit.head is not None:
            active = commit.head.active
            row.executor = active.executor if active is not None else None
            row.is_wished = active is not None and active.wish is not None
        head = self.run(self.world.stores[which].load(self.name))
        assert head is not None
        self.seen[which] = head

    def commit(self, which: int, commit: Commit, *, fits: bool) -> None:
        async def answer() -> BambooError | None:
            return await answer_to(append(self.world.stores[which], commit))

        self.take(which, commit, self.run(answer()), fits=fits)

    # -- steps ------------------------------------------------------------------------------

    @rule(which=WHICH)
    def look(self, which: int) -> None:
        self.seen[which] = self.run(self.world.stores[which].load(self.name))

    @rule(which=WHICH)
    def create(self, which: int) -> None:
        epoch = self.run(self.world.stores[which].take_epoch())
        assert epoch > self.last_epoch
        self.last_epoch = epoch
        commit = Writer(self.name, epoch).commit(self.text(), version=0)
        self.commit(which, commit, fits=self.row is None)

    @precondition(lambda self: any(self.seen))
    @rule(which=WHICH, note=st.booleans(), delta=st.booleans())
    def say(self, which: int, note: bool, delta: bool) -> None:
        head = self.seen[which]
        if head is None:
            return
        key = f"k{self.count}" if note else None
        events = [token(f"t{self.count}")] if delta else [] if note else [self.text()]
        commit = self.writer(which).commit(*events, note=key, version=head.version)
        self.commit(which, commit, fits=self.is_current(which))

    @precondition(lambda self: any(self.seen))
    @rule(which=WHICH)
    def start_or_end(self, which: int) -> None:
        head = self.seen[which]
        if head is None:
            return
        writer = self.writer(which)
        if head.active is None:
            executor = self.world.stores[which].replicas.executor
            commit = started(writer, executor, version=head.version)
        else:
            commit = writer.commit(complete(head.active.run_id), version=head.version)
        self.commit(which, commit, fits=self.is_current(which))

    @precondition(lambda self: any(self.seen))
    @rule(which=WHICH)
    def wish(self, which: int) -> None:
        head = self.seen[which]
        if head is None or head.active is None:
            return
        commit = self.writer(which).commit(note="wish:r1", version=head.version)
        assert commit.head is not None
        assert commit.head.active is not None
        commit.head.active.wish = WISH
        self.commit(which, commit, fits=self.is_current(which))

    @precondition(lambda self: any(self.seen))
    @rule(which=WHICH, strictly=st.booleans())
    def delete(self, which: int, strictly: bool) -> None:
        head, row = self.seen[which], self.row
        if head is None:
            return
        version = head.version if strictly else None
        fits = row is not None and row.epoch == head.epoch
        fits = fits and (version is None or (row is not None and row.version == version))
        deletion = self.world.stores[which].delete(self.name, head.epoch, version)
        if not fits:
            with pytest.raises(Conflict):
                self.run(deletion)
            return
        assert self.run(deletion) > 0
        self.row = None

    @precondition(lambda self: self.row is not None and self.row.executor is None)
    @rule(which=WHICH)
    def pack_or_unpack(self, which: int) -> None:
        row, store = self.row, self.world.stores[which]
        assert row is not None
        row.is_packed = not row.is_packed
        change = store.pack if row.is_packed else store.unpack
        self.run(change(self.name, row.epoch))
        head = self.run(store.load(self.name))
        assert head is not None
        assert head.version > row.version
        row.version = head.version

    @precondition(lambda self: self.seen[0] is not None)
    @rule(where=st.sampled_from([Cut.BEFORE, Cut.AFTER]), meets=st.booleans())
    def lose_an_answer(self, where: Cut, meets: bool) -> None:
        """Cut the first process's connection, perhaps with the other's commit in between."""
        head = self.seen[0]
        assert head is not None
        first = self.writer(0).commit(self.text(), version=head.version)
        fits = self.is_current(0)
        one, other = self.world.stores

        async def lost() -> BambooError | None:
            version = self.row.version if self.row is not None else 0
            with cut_once(self.world.proxy, where) as (was_cut, may_pass):
                answer = append(one, first)
                assert await asyncio.to_thread(was_cut.wait, DEADLINE_SECONDS)
                if where is Cut.AFTER and fits:
                    await until_true(lambda: self.version() > version)
                if meets:
                    await self._other_says(other, first, is_stored=where is Cut.AFTER and fits)
                may_pass.set()
                return await answer_to(answer)

        before = self.row.version if self.row is not None else None
        error = self.run(lost())
        is_first_behind = (
            where is Cut.BEFORE and self.row is not None and self.row.version != before
        )
        if where is Cut.AFTER and fits and meets:
            assert error is None, error  # `_other_says` has counted it
            return
        if isinstance(error, StorageFailed):
            # Nobody can know: what would tell is packed, or gone with the session.
            row = self.row
            assert row is None or row.is_packed or row.epoch != first.epoch
            assert not fits
            return
        self.take(0, first, error, fits=fits and not is_first_behind)

    async def _other_says(self, other: PostgresStore, first: Commit, *, is_stored: bool) -> None:
        if is_stored:
            assert self.row is not None
            self.row.version += 1
            self.row.bodies += [event.body for event in first.events]
        head = await other.load(self.name)
        if head is None or self.row is None or self.row.is_packed:
            return
        commit = Writer.of(head).commit(self.text(), version=head.version)
        assert await answer_to(append(other, commit)) is None
        self.row.version += 1
        self.row.bodies += [event.body for event in commit.events]

    def version(self) -> int:
        found = execute(self.world.url, f"SELECT version FROM sessions WHERE id = '{self.name}'")
        return int(found[0][0]) if found else 0

    # -- what always holds ------------------------------------------------------------------

    @invariant()
    def both_read_what_the_model_has(self) -> None:
        row = self.row
        for store in self.world.stores:
            head = self.run(store.load(self.name))
            if row is None:
                assert head is None
                continue
            assert head is not None
            assert (head.epoch, head.version) == (row.epoch, row.version)
            assert head.seq == len(row.bodies)
            active = head.active
            assert (active.executor if active is not None else None) == row.executor
            assert (active is not None and active.wish is not None) == row.is_wished
            read = self.run(everything(store, self.name))
            assert [record.body for record in read] == row.bodies
            for seq, body in enumerate(row.bodies, 1):
                place = (self.name, row.epoch, seq)
                assert self.world.bodies_at.setdefault(place, body) == body
        columns = execute(self.world.url, f"SELECT executor FROM sessions WHERE id = '{self.name}'")
        assert columns == ([] if row is None else [(row.executor,)])


def test_two_processes_and_the_model_agree_in_any_order(
    postgres_url: str, through_proxy: str, proxy: PostgresProxy
) -> None:
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()

        async def opened() -> tuple[PostgresStore, PostgresStore]:
            one = await stack.enter_async_context(open_store(through_proxy))
            other = await stack.enter_async_context(open_store(postgres_url))
            return one, other

        Machine.world = World(runner, postgres_url, proxy, runner.run(opened()))
        try:
            run_state_machine_as_test(
                Machine,
                settings=settings(max_examples=10, stateful_step_count=16, deadline=None),
            )
        finally:
            runner.run(stack.aclose())
