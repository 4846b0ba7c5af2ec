"""Three gateways write to one session in any order, and what always holds.

The steps are calls at a random gateway, and orders to hold a gateway's commits, to keep its answers
back, or to lose one. Each call is a task of its own, so what is held is decided on while the others
go on. At the end everything is let go. Then

- the log is whole, and its head is the fold of its events;
- what a client was told is in the log once; what it was refused is there at most once, whatever
  was repeated with its key at other gateways, and whatever was deleted in between;
- each gateway has the head that the store has, and its readers have all events once, in order.
"""

import json
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
import anyio.lowlevel
from hypothesis import given, settings
from hypothesis import strategies as st

from bamboo_gateway.domain.errors import BambooError
from bamboo_gateway.domain.events import Complete, Token
from bamboo_gateway.domain.projections import fold
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.sessions.commands import Idempotency, NewMessage, NewSession
from bamboo_gateway.sessions.lifecycle.fork import Fork
from bamboo_gateway.sessions.lifecycle.merge_plan import Merge
from bamboo_gateway.sessions.streaming.absorbing import absorb_missing
from tests.support.clocks import FakeClock
from tests.support.gateways import DEADLINE_SECONDS, ME, Gateway, Reader, eventually, gateway, quiet
from tests.support.shared_memory import SharedMemory

GATES = 3
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "say",
                "say",
                "say with a key",
                "say with a key",
                "repeat",
                "repeat",
                "chat",
                "speak",
                "speak",
                "end the run",
                "post",
                "post lines",
                "rename",
                "archive",
                "restore",
                "merge",
                "fork",
                "read",
                "poll",
                "delete",
                "hold",
                "hold",
                "hold answers",
                "let go",
                "let go",
                "lose an answer",
                "rest",
            ]
        ),
        st.integers(0, GATES - 1),
    ),
    min_size=1,
    max_size=25,
)


@dataclass
class Given:
    """A call with a key, and what its clients were told of it."""

    text: str
    is_told: bool = False
    answers: list[dict[str, Any]] = field(default_factory=list)


class Cluster:
    """Three gateways, and what their clients know."""

    def __init__(self, memory: SharedMemory, gates: list[Gateway]) -> None:
        self.memory = memory
        self.gates = gates
        self.told: set[str] = set()
        self.keyed: list[Given] = []
        self.spoken: defaultdict[str, list[str]] = defaultdict(list)
        self.ending: set[str] = set()
        self.readers: list[Reader] = []
        self.was_deleted = False
        self._count = 0

    def name(self) -> str:
        self._count += 1
        return f"<{self._count}>"

    # -- steps ------------------------------------------------------------------------------

    async def say(self, gate: Gateway) -> None:
        text = self.name()
        await gate.manager.add_messages(ME, "s", [NewMessage("user", text)], None)
        self.told.add(text)

    async def say_with_a_key(self, gate: Gateway) -> None:
        one = Given(self.name())
        self.keyed.append(one)
        await self._say_keyed(gate, one)

    async def repeat(self, gate: Gateway) -> None:
        if self.keyed:
            await self._say_keyed(gate, self.keyed[-1])

    async def _say_keyed(self, gate: Gateway, one: Given) -> None:
        answer = await gate.chat(
            "s", one.text, f"run {one.text}", key=f"key {one.text}", on_busy="reject"
        )
        one.answers.append(answer)

    async def chat(self, gate: Gateway) -> None:
        text = self.name()
        await gate.chat("s", text, f"run {text}", on_busy="reject")
        self.told.add(text)

    async def speak(self, gate: Gateway) -> None:
        del gate
        for one in self.gates:
            for run_id in one.agent.asked[-1:]:
                if run_id not in self.ending:
                    word = self.name()
                    self.spoken[run_id].append(word)
                    one.agent.do(run_id, Token(word))

    async def end_the_run(self, gate: Gateway) -> None:
        del gate
        for one in self.gates:
            for run_id in one.agent.asked:
                self.ending.add(run_id)
                one.agent.do(run_id, Complete())

    async def post(self, gate: Gateway) -> None:
        text = self.name()
        event = {"type": "custom", "name": "note", "value": text}
        await gate.manager.append_events(ME, "s", [event], None)
        self.told.add(text)

    async def post_lines(self, gate: Gateway) -> None:
        texts = [self.name() for _ in range(4)]

        async def lines() -> AsyncIterator[list[bytes]]:
            for text in texts:
                event = {"type": "custom", "name": "note", "value": text}
                yield [json.dumps(event).encode()]
                await quiet()

        idem = Idempotency(f"key {texts[0]}", "POST /events", "")
        await gate.manager.append_event_lines(ME, "s", lines(), idem)
        self.told |= set(texts)

    async def rename(self, gate: Gateway) -> None:
        await gate.manager.update_session(ME, "s", {"title": self.name()})

    async def archive(self, gate: Gateway) -> None:
        await gate.manager.archive(ME, "s")

    async def restore(self, gate: Gateway) -> None:
        await gate.manager.restore(ME, "s")

    async def read(self, gate: Gateway) -> None:
        reader = await gate.reader("s", after="0")
        self.readers.append(reader)

    async def poll(self, gate: Gateway) -> None:
        look = self.memory.database.look("s")
        if gate.manager._registry.get("s") is not None:
            gate.manager._registry.moved("s", look)

    async def delete(self, gate: Gateway) -> None:
        self.was_deleted = True
        await gate.manager.delete_session(ME, "s")

    async def hold(self, gate: Gateway) -> None:
        gate.store.hold_appends()

    async def hold_answers(self, gate: Gateway) -> None:
        gate.store.hold_acks()

    async def let_go(self, gate: Gateway) -> None:
        gate.store.release_appends()
        gate.store.release_acks()

    async def lose_an_answer(self, gate: Gateway) -> None:
        gate.store.lie_about_append()

    async def rest(self, gate: Gateway) -> None:
        del gate
        await quiet()

    async def merge(self, gate: Gateway) -> None:
        source = f"source{self.name()[1:-1]}"
        text = self.name()
        await gate.manager.create_session(ME, NewSession(id=source))
        await gate.manager.add_messages(ME, source, [NewMessage("user", text)], None)
        await gate.manager.merge(ME, "s", Merge(source))
        self.told.add(text)

    async def fork(self, gate: Gateway) -> None:
        child = f"child{self.name()[1:-1]}"
        await gate.manager.fork(ME, "s", Fork(new_id=child))

    async def take(self, step: str, number: int) -> None:
        """Make one step. A client is refused much, and that is in order."""
        call: Callable[[Gateway], Awaitable[None]] = getattr(self, step.replace(" ", "_"))
        with suppress(BambooError):
            await call(self.gates[number])

    # -- what has to hold -------------------------------------------------------------------

    async def finish(self) -> None:
        """Let everything go that was held, and every run end."""
        for gate in self.gates:
            gate.store.heal()
            gate.store.release_appends()
            gate.store.release_acks()

        async def is_at_rest() -> bool:
            # A run whose start was stored without an answer is closed by who renews.
            self.memory.renew()
            await self.end_the_run(self.gates[0])
            await quiet()
            head = await self.memory.database.load("s")
            return head is None or not (head.active or head.queue)

        await eventually(is_at_rest)
        await quiet()

    async def check(self) -> None:
        log = await self.gates[0].log("s")
        assert [event["seq"] for event in log] == list(range(1, len(log) + 1))
        self._check_head(log)
        deleted = [[json.loads(body) for body in bodies] for bodies in self.memory.deleted]
        self._check_texts([*deleted, log])
        self._check_runs(log)
        await self._check_readers()
        await self._check_memory()

    def _check_head(self, log: list[dict[str, Any]]) -> None:
        if not log:
            return
        stored = self.memory.head("s")
        folded = SessionHead("s", stored.epoch)
        for event in log:
            fold(folded, event)
        # A deletion of notes and touches is no event, and compaction none here.
        assert replace(folded, version=stored.version) == stored

    def _check_texts(self, logs: list[list[dict[str, Any]]]) -> None:
        counts = Counter(
            text for log in logs for event in log for text in [_text_of(event)] if text
        )
        assert all(count == 1 for count in counts.values()), counts
        if not self.was_deleted:
            lost = self.told - set(counts)
            assert not lost
        for one in self.keyed:
            assert len({json.dumps(answer) for answer in one.answers}) <= 1
            if one.answers and not self.was_deleted:
                assert one.text in counts

    def _check_runs(self, log: list[dict[str, Any]]) -> None:
        asked = Counter(run_id for gate in self.gates for run_id in gate.agent.asked)
        assert all(count == 1 for count in asked.values()), asked
        words: defaultdict[str, list[str]] = defaultdict(list)
        ends: Counter[str] = Counter()
        for event in log:
            if event["type"] == "token":
                words[event["run_id"]].append(event["content"])
            elif event["type"] in {"complete", "error", "cancelled"}:
                ends[event["run_id"]] += 1
        for run_id, said in words.items():
            spoken = "".join(self.spoken[run_id])
            assert spoken.startswith("".join(said))
            has_failed = any(
                event["type"] == "error" and event["run_id"] == run_id for event in log
            )
            assert has_failed or spoken == "".join(said)
        assert all(count == 1 for count in ends.values()), ends

    async def _check_memory(self) -> None:
        stored = await self.memory.database.load("s")
        for gate in self.gates:
            registry = gate.manager._registry
            with suppress(BambooError):
                head = await registry.head(ME, "s")
                assert head == stored
            writer = registry.get("s")
            if writer is not None:
                with suppress(Exception):
                    await registry.confirm(writer)
            writer = registry.get("s")
            if writer is not None and not writer.gone:
                assert writer.head == stored
                assert writer.durable_seq == writer.head.seq
                assert not writer.users
            assert not [one for one in gate.leftovers() if "users=0" not in one]

    async def _check_readers(self) -> None:
        look = self.memory.database.look("s")
        for gate in self.gates:
            channel = gate.manager._channels.get("s")
            if gate.manager._registry.moved("s", look) or channel is None:
                continue
            head = await self.memory.database.load("s")
            if head is None or head.epoch != channel.epoch:
                channel.vanish("deleted")
            else:
                await absorb_missing(gate.store, channel, head)
        await quiet()
        for reader in self.readers:
            frames = await reader.take_what_is_there()
            seqs = [frame.data["seq"] for frame in reader.events]
            assert seqs == list(range(1, len(seqs) + 1))
            if not any(frame.type == "goodbye" for frame in frames):
                assert look is not None
                assert len(seqs) == look.seq
            reader.close()


def _text_of(event: dict[str, Any]) -> str | None:
    """Return what a client has said in an event, if it is one of those that are counted."""
    if event["type"] == "message" and event["message"]["role"] == "user":
        content: str = event["message"]["content"]
        return content
    if event["type"] == "custom":
        return str(event["value"])
    return None


@given(STEPS)
@settings(max_examples=150)
async def test_whoever_is_faster_nothing_is_lost_and_nothing_is_done_twice(
    steps: list[tuple[str, int]],
) -> None:
    clock = FakeClock()
    memory = SharedMemory(clock)
    stores = [await memory.store(name) for name in "abc"[:GATES]]
    async with (
        gateway(stores[0], clock=clock) as a,
        gateway(stores[1], clock=clock) as b,
        gateway(stores[2], clock=clock) as c,
    ):
        cluster = Cluster(memory, [a, b, c])
        with anyio.fail_after(DEADLINE_SECONDS):
            await a.manager.create_session(ME, NewSession(id="s"))
            async with anyio.create_task_group() as tasks:
                for step, number in steps:
                    tasks.start_soon(cluster.take, step, number)
                    await anyio.lowlevel.checkpoint()
                await quiet()
                await cluster.finish()
            await cluster.finish()
            await cluster.check()
