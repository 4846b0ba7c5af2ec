"""R1 to R3, R9, R10: in any order of operations the store behaves like a dict that is durable.

Hypothesis runs commits, deletions, checkpoints, clean restarts, kills and power losses against a
model, and looks for the shortest sequence after which the two differ.
"""

import asyncio
import random
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from typing_extensions import override

from bamboo_gateway.storage.commits import Commit, MarkKind
from bamboo_gateway.storage.jsonl.store import JsonlStore
from bamboo_gateway.storage.reports import SessionQuery
from tests.storage.faults import VolatileFileSystem, abandon
from tests.storage.writing import (
    DEADLINE_SECONDS,
    NOBODY,
    StepClock,
    Writer,
    append,
    bodies_of,
    committed,
    everything,
    marks_of,
    message,
    token,
)

IDS = st.sampled_from(["a", "A", "s-1", "x" * 100])
KINDS: tuple[MarkKind, ...] = ("message", "note")
T = TypeVar("T")


class StoreMachine(RuleBasedStateMachine):
    """The store beside a dict of writers (with the expected heads) and their commits."""

    durability = "fsync"

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="model-")) / "data"
        self.clock = StepClock()
        self.loop = asyncio.new_event_loop()
        self.writers: dict[str, Writer] = {}
        self.commits: dict[str, list[Commit]] = {}
        self.epochs: set[int] = set()
        self.number = 0

    def run(self, awaitable: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(awaitable, DEADLINE_SECONDS))

    @initialize()
    def start(self) -> None:
        self.fs = VolatileFileSystem(self.root)
        self.store = JsonlStore(self.root, self.clock, durability=self.durability, fs=self.fs)
        self.report = self.run(self.store.open())
        assert self.report.damaged == []

    @rule(session_id=IDS, count=st.integers(0, 4), size=st.sampled_from([1, 3000]),
          note=st.booleans())  # fmt: skip
    def commit(self, session_id: str, count: int, size: int, note: bool) -> None:
        writer = self.writers.get(session_id)
        if writer is None:
            epoch = self.store.next_epoch()
            assert epoch not in self.epochs
            self.epochs.add(epoch)
            writer = self.writers[session_id] = Writer(session_id, epoch)
            self.commits[session_id] = []
        self.number += 1
        events = [token("t" * size) for _ in range(count)]
        if self.number % 2:
            events.append(message(f"m{self.number}"))
        commit = writer.commit(*events, note=f"k{self.number}" if note or not events else None)
        self.run(committed(self.store, commit))
        self.commits[session_id].append(commit)

    @rule(session_id=IDS)
    def delete(self, session_id: str) -> None:
        writer = self.writers.pop(session_id, None)
        if writer is not None:
            del self.commits[session_id]
            assert self.run(self.store.delete(session_id, writer.head.epoch)) > 0

    @rule()
    def checkpoint(self) -> None:
        assert self.run(self.store.checkpoint())

    @rule(session_id=IDS)
    def release(self, session_id: str) -> None:
        self.run(self.store.release(session_id))

    @rule(session_id=IDS, ms=st.integers(1, 5000))
    def touch(self, session_id: str, ms: int) -> None:
        # Durable only with the next checkpoint, so that is part of the step.
        writer = self.writers.get(session_id)
        if writer is not None:
            writer.head.last_activity_at += ms
            writer.now_ms = writer.head.last_activity_at
            self.store.touch(session_id, writer.head.epoch, writer.head.last_activity_at)
            assert self.run(self.store.checkpoint())

    @rule(step=st.integers(-100_000, 100_000))
    def step_clock(self, step: int) -> None:
        self.clock.ms += step

    @rule()
    def restart(self) -> None:
        self.run(self.store.aclose())
        self.start()
        assert self.report.clean

    @rule()
    def kill(self) -> None:
        image = self.fs.take_image()
        self.run(abandon(self.store))
        image.restore(self.root, power_lost=False)
        self.start()

    @precondition(lambda self: self.durability == "fsync")
    @rule(seed=st.one_of(st.none(), st.integers(0, 1000)))
    def lose_power(self, seed: int | None) -> None:
        image = self.fs.take_image()
        self.run(abandon(self.store))
        chance = None if seed is None else random.Random(seed)
        image.restore(self.root, power_lost=True, chance=chance)
        self.start()

    @precondition(lambda self: self.writers)
    @rule(data=st.data(), seed=st.integers(0, 1000))
    def lose_power_while_commits_are_on_their_way(self, data: st.DataObject, seed: int) -> None:
        if self.durability != "fsync":
            return
        session_id = data.draw(st.sampled_from(sorted(self.writers)))
        writer = Writer.of(self.writers[session_id].head)
        given: list[Commit] = []
        acked: list[int] = []
        acked_at_crash = 0

        def note() -> None:
            nonlocal acked_at_crash
            acked_at_crash = len(acked)

        self.fs.on_crash = note

        async def cut() -> None:
            answers = []
            for _ in range(4):
                self.number += 1
                given.append(writer.commit(token("way"), message(f"m{self.number}")))
                answers.append(append(self.store, given[-1]))
                answers[-1].add_done_callback(lambda _: acked.append(1))
            self.fs.crash_at = self.fs.changes + 1 + seed % 6
            await asyncio.gather(*answers)
            await abandon(self.store)

        self.fs.image = None
        self.run(cut())
        image = self.fs.image
        if image is None:
            image = self.fs.take_image()
            note()
        image.restore(self.root, power_lost=True, chance=random.Random(seed))
        self.start()
        head = self.run(self.store.load(session_id))
        assert head is not None
        kept = [c for c in given if c.first_seq + len(c.events) - 1 <= head.seq]
        assert len(kept) >= acked_at_crash
        if kept:
            assert head == kept[-1].head
            self.commits[session_id] += kept
        self.writers[session_id] = Writer.of(head)

    @invariant()
    def sessions_are_those_of_the_model(self) -> None:
        if not hasattr(self, "store"):
            return
        assert self.run(self.store.usage()).sessions == len(self.writers)
        page = self.run(self.store.query(SessionQuery(sort_by="title"), NOBODY))
        assert {head.id: head for head in page.heads} == {
            name: writer.head for name, writer in self.writers.items()
        }

    @rule(session_id=IDS, after=st.integers(0, 30), limit=st.integers(1, 9))
    def read(self, session_id: str, after: int, limit: int) -> None:
        writer = self.writers.get(session_id)
        if writer is None:
            assert self.run(self.store.load(session_id)) is None
            return
        assert self.run(self.store.load(session_id)) == writer.head
        bodies = self.bodies(session_id)
        page = self.run(
            self.store.read(session_id, writer.head.epoch, after, limit=limit, max_bytes=1 << 20)
        )
        assert [record.body for record in page] == bodies[after : after + limit]

    def bodies(self, session_id: str) -> list[bytes]:
        return bodies_of(*self.commits[session_id])

    @rule(session_id=IDS, reverse=st.booleans())
    def find(self, session_id: str, reverse: bool) -> None:
        writer = self.writers.get(session_id)
        if writer is None:
            return
        marks = marks_of(*self.commits[session_id])
        for kind in KINDS:
            expected = [mark for mark in marks if mark[0] == kind]
            found = self.run(self.store.find(session_id, writer.head.epoch, kind, reverse=reverse))
            wanted = [seq for _, _, seq in expected]
            assert [record.seq for record in found] == (wanted[::-1] if reverse else wanted)
            if expected:
                _, key, seq = expected[len(expected) // 2]
                [one] = self.run(self.store.find(session_id, writer.head.epoch, kind, key=key))
                assert one.seq == seq

    @override
    def teardown(self) -> None:
        if hasattr(self, "store"):
            for session_id in self.writers:
                found = self.run(everything(self.store, session_id))
                assert [record.body for record in found] == self.bodies(session_id)
            self.run(self.store.aclose())
        self.loop.close()
        shutil.rmtree(self.root.parent)


class KilledStoreMachine(StoreMachine):
    """The same with `durability = "os"`: commits survive a kill, but not a power loss."""

    durability = "os"


PROFILE = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.filter_too_much],
}
TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=30, stateful_step_count=25, **PROFILE)  # type: ignore[arg-type]
TestKilledStore = KilledStoreMachine.TestCase
TestKilledStore.settings = settings(max_examples=6, stateful_step_count=20, **PROFILE)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.timeout(1800)
class TestStoreForLong(StoreMachine.TestCase):  # type: ignore[misc, valid-type]
    settings = settings(max_examples=400, stateful_step_count=50, **PROFILE)  # type: ignore[arg-type]
