"""Runs of five processes over one store, in random orders, with deaths: what always holds."""

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from bamboo_gateway.domain.errors import BambooError, StorageFailed, Unavailable
from bamboo_gateway.domain.events import TERMINAL_TYPES, Complete, Token
from bamboo_gateway.sessions.commands import Idempotency, NewSession, OnBusy
from bamboo_gateway.sessions.streaming.session_writer import Vanished
from tests.support.clocks import FakeClock
from tests.support.gateways import DEADLINE_SECONDS, ME, Gateway, eventually, gateway, quiet
from tests.support.shared_memory import SharedMemory, SharedStore

STEPS = 60
SESSIONS = ("s", "t")
EXTERNAL = "x"
"""The session whose runs are posted from outside."""

READS = ("read", "find", "load", "keys_in_use")


class Cluster:
    """Five processes, what clients were told, and what the agents did."""

    def __init__(self, seed: int) -> None:
        self.choose = random.Random(seed)
        self.clock = FakeClock()
        self.memory = SharedMemory(self.clock)
        self.stack = AsyncExitStack()
        self.gates: dict[str, Gateway] = {}
        self.all: list[Gateway] = []
        self.count = 0
        # The runs that a client was told have begun or wait.
        self.told: dict[str, str] = {}
        # What was posted for each external run.
        self.posted: dict[str, str] = {}
        self.producing = anyio.Lock()

    async def start(self) -> None:
        """Start one more process."""
        self.count += 1
        name = f"p{self.count}"
        store = await self.memory.store(name)
        for read in READS:
            setattr(store, read, self.slow(getattr(store, read)))
        setattr(store.shared, "look", self.slow(store.shared.look))  # noqa: B010
        gate = await self.stack.enter_async_context(gateway(store, clock=self.clock))
        self.gates[name] = gate
        self.all.append(gate)

    def slow(self, read: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """Let time pass before and behind a read, so that others can do something meanwhile."""

        async def slow(*args: Any, **named: Any) -> Any:
            for _ in range(self.choose.randrange(3)):
                await checkpoint()
            found = await read(*args, **named)
            for _ in range(self.choose.randrange(4)):
                await checkpoint()
            return found

        return slow

    def some(self) -> Gateway:
        """Choose a living process."""
        return self.gates[self.choose.choice(sorted(self.gates))]

    @property
    def asked(self) -> Counter[str]:
        """How often an agent was asked for each run, in whatever process."""
        return Counter(run_id for gate in self.all for run_id in gate.agent.asked)

    # -- steps ------------------------------------------------------------------------------

    async def chat(self) -> None:
        """Chat, and note what the client was told."""
        session_id = self.choose.choice(SESSIONS)
        on_busy: OnBusy = self.choose.choice(("enqueue", "interrupt"))
        gate = self.some()
        with suppress(BambooError):
            answer = await gate.chat(session_id, "hi", on_busy=on_busy)
            self.told[answer["run_id"]] = session_id

    async def cancel(self) -> None:
        """Cancel something."""
        session_id = self.choose.choice(SESSIONS)
        with suppress(BambooError):
            await self.some().manager.cancel_session(ME, session_id)

    async def post(self) -> None:
        """Store an event beside the runs."""
        event = {"type": "custom", "name": "note", "value": self.choose.random()}
        with suppress(BambooError):
            await self.some().manager.append_events(ME, self.choose.choice(SESSIONS), [event], None)

    async def post_run(self) -> None:
        """Post a run's events one by one, each with a key at one process after the other."""
        async with self.producing:
            run_id = f"x{len(self.posted)}"
            idem = Idempotency(f"open {run_id}", "POST /runs", run_id)
            if not await self._until_answered(
                lambda gate: gate.manager.open_run(ME, EXTERNAL, run_id, idem)
            ):
                return
            texts = [f"{number} " for number in range(self.choose.randrange(1, 6))]
            self.posted[run_id] = "".join(texts)
            events: list[dict[str, Any]] = [{"type": "token", "content": text} for text in texts]
            for number, event in enumerate([*events, {"type": "complete"}]):
                key = Idempotency(f"{run_id} {number}", "POST /events", str(number))
                assert await self._until_answered(partial(self._post_one, run_id, event, key))

    async def _post_one(
        self, run_id: str, event: dict[str, Any], key: Idempotency, gate: Gateway
    ) -> None:
        await gate.manager.append_events(ME, EXTERNAL, [{**event, "run_id": run_id}], key)

    async def _until_answered(self, ask: Callable[[Gateway], Awaitable[Any]]) -> bool:
        """Ask again, of any process, as a client whose connection breaks; False: refused."""
        while True:
            try:
                if self.choose.random() < 0.8:
                    await ask(self.some())
                    return True
                await self._cut_off(ask)
            except (Unavailable, StorageFailed):
                await checkpoint()

    async def _cut_off(self, ask: Callable[[Gateway], Awaitable[Any]]) -> None:
        """Ask, and leave before the answer, or about then."""

        async def asking() -> None:
            with suppress(Unavailable, StorageFailed):
                await ask(self.some())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(asking)
            for _ in range(self.choose.randrange(30)):
                await checkpoint()
            tasks.cancel_scope.cancel()

    async def speak(self) -> None:
        """Let the agents speak, and some end."""
        for gate in self.all:
            for run_id in gate.agent.asked:
                said: list[Any] = [
                    Token(f"{number} ") for number in range(self.choose.randrange(4))
                ]
                gate.agent.do(run_id, *said, *[Complete()] * (self.choose.random() < 0.3))

    async def die(self) -> None:
        """Let a process die, or seem to, as long as two are left."""
        if len(self.gates) <= 2:
            return
        name = self.choose.choice(sorted(self.gates))
        if self.choose.random() < 0.5:
            self.memory.kill(name)
        else:
            self.memory.take_for_dead(name)
        del self.gates[name]

    async def lose(self) -> None:
        """Let a process find that it was taken for dead, and go on under another name."""
        name = self.choose.choice(sorted(self.gates))
        self.count += 1
        gate = self.gates.pop(name)
        self.gates[f"p{self.count}"] = gate
        assert isinstance(gate.store, SharedStore)
        gate.store.shared.lose(f"p{self.count}")
        self.memory._stores[f"p{self.count}"] = self.memory._stores.pop(name)

    async def delay(self) -> None:
        """Hold the commits of a process for a while."""
        store = self.some().store
        store.hold_appends()
        for _ in range(self.choose.randrange(20)):
            await checkpoint()
        store.release_appends()

    async def lie(self) -> None:
        """Let the answer to a commit be lost: it is stored, and the process does not know."""
        self.some().store.lie_about_append()

    async def renew(self) -> None:
        """Let a renewal pass."""
        self.memory.renew()

    async def follow(self) -> None:
        """Look at the sessions in memory again and again."""
        while True:
            for gate in self.all:
                for writer in gate.manager._registry.sessions:
                    if not writer.is_idle and writer.is_ready:
                        with suppress(Vanished, BambooError):
                            await gate.manager._registry.confirm(writer)
            await checkpoint()

    # -- what has to hold -------------------------------------------------------------------

    async def finish(self) -> None:
        """Let every run end that can."""
        for gate in self.all:
            gate.store.release_appends()

        async def is_at_rest() -> bool:
            self.memory.renew()
            for gate in self.gates.values():
                for run_id in gate.agent.asked:
                    gate.agent.do(run_id, Complete())
            await quiet()
            heads = [await self.memory.database.load(session_id) for session_id in SESSIONS]
            return all(head is None or not (head.active or head.queue) for head in heads)

        await eventually(is_at_rest)

    async def check(self) -> None:
        """Check the logs and the agents."""
        logs = {session_id: await self.all[0].log(session_id) for session_id in SESSIONS}
        assert all(times == 1 for times in self.asked.values()), self.asked
        log = logs[EXTERNAL] = await self.all[0].log(EXTERNAL)
        for run_id, text in self.posted.items():
            of_run = [event for event in log if event.get("run_id") == run_id]
            said = [event["message"]["content"] for event in of_run if event["type"] == "message"]
            assert said == [text]
            assert [e["type"] for e in of_run if e["type"] in TERMINAL_TYPES] == ["complete"]
        for session_id, log in logs.items():
            assert [event["seq"] for event in log] == list(range(1, len(log) + 1))
            self._check_runs(log)
            queued = {event["run_id"] for event in log if event["type"] == "run_queued"}
            started = {event["run_id"] for event in log if event["type"] == "run_start"}
            told = {run_id for run_id, where in self.told.items() if where == session_id}
            assert told <= queued | started
        in_logs = {event.get("run_id") for log in logs.values() for event in log}
        assert set(self.asked) <= in_logs

    def _check_runs(self, log: list[dict[str, Any]]) -> None:
        active: str | None = None
        text: list[str] = []
        ended: set[str] = set()
        for event in log:
            run_id, kind = event.get("run_id"), event["type"]
            if kind == "run_start":
                assert active is None
                assert run_id not in ended
                active, text = run_id, []
            elif kind in TERMINAL_TYPES:
                assert run_id not in ended
                ended.add(str(run_id))
                if run_id == active:
                    assert not text, "what was said is no message"
                    active = None
            elif kind == "token":
                assert run_id == active
                text.append(event["content"])
            elif kind == "message" and event["message"]["role"] == "assistant":
                assert run_id == active
                assert event["message"]["content"] == "".join(text)
                text = []
        assert active is None


@pytest.mark.parametrize("seed", range(30))
async def test_whatever_happens_each_run_is_executed_once_and_ends_once(seed: int) -> None:
    cluster = Cluster(seed)
    async with cluster.stack:
        for _ in range(5):
            await cluster.start()
        await cluster.all[0].manager.create_session(ME, NewSession(id=EXTERNAL))
        steps: dict[Callable[[], Coroutine[Any, Any, None]], int] = {
            cluster.chat: 8,
            cluster.speak: 8,
            cluster.cancel: 2,
            cluster.post: 4,
            cluster.die: 1,
            cluster.lose: 1,
            cluster.delay: 4,
            cluster.lie: 1,
            cluster.renew: 4,
            cluster.post_run: 2,
        }
        with anyio.fail_after(2 * DEADLINE_SECONDS):
            async with anyio.create_task_group() as following:
                following.start_soon(cluster.follow)
                async with anyio.create_task_group() as tasks:
                    for _ in range(STEPS):
                        step = cluster.choose.choices([*steps], [*steps.values()])[0]
                        tasks.start_soon(step)
                        for _ in range(cluster.choose.randrange(6)):
                            await checkpoint()
                    await _until_calls_end(cluster, tasks)
                await cluster.finish()
                await cluster.check()
                for gate in cluster.all:
                    gate.store.heal()
                following.cancel_scope.cancel()


async def _until_calls_end(cluster: Cluster, tasks: Any) -> None:
    """Let the calls go on that wait for the end of a run."""

    async def go_on() -> None:
        for _ in range(10):
            cluster.memory.renew()
            await cluster.speak()
            await quiet()

    tasks.start_soon(go_on)
