"""Any sequence of asking, answering and going around an answer, held against a plain model.

The model is a few lists: who is open, who waits in the queue, whether a run is active. After each
step the head, the state and the log have to agree with it; restarts change nothing of that.
"""

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bamboo_gateway.domain.clock import format_ms
from bamboo_gateway.domain.errors import BambooError, Gone, NotFound, Refused
from bamboo_gateway.domain.events import InputRequired, ToolStart
from bamboo_gateway.sessions.runs.inputs import Inputs
from bamboo_gateway.storage.base import SessionStore
from tests.support.agents import RETURN
from tests.support.clocks import FakeClock
from tests.support.gateways import DEADLINE_SECONDS, ME, Gateway, crash, gateway, quiet

VERBS = st.lists(
    st.sampled_from(
        [
            "chat",
            "interrupt",
            "reject",
            "ask",
            "fail",
            "end",
            "answer a",
            "answer b",
            "answer both",
            "other answer",
            "cancel",
            "tick",
            "restart",
        ]
    ),
    min_size=1,
    max_size=14,
)
SECONDS = 10


@dataclass
class Model:
    """What a session should be like."""

    open: dict[str, int | None] = field(default_factory=dict)
    queue: list[str] = field(default_factory=list)
    active: bool = False
    given: dict[str, Any] = field(default_factory=dict)
    closed: dict[str, str] = field(default_factory=dict)
    rounds: int = 0

    def close(self, reason: str, *names: str) -> None:
        for name in names or list(self.open):
            del self.open[name]
            self.closed[name] = reason

    def next(self) -> None:
        """Let the queue go on, if nothing is in its way."""
        if not self.active and not self.open and self.queue:
            del self.queue[0]
            self.active = True

    def chat(self, *, front: bool, run_id: str) -> None:
        if self.active or self.queue:
            if not self.active:
                self.close("superseded")
            if front:
                self.queue.insert(0, run_id)
                self.active = False  # it ends for the one that interrupts it
            else:
                self.queue.append(run_id)
            self.next()
        else:
            self.close("superseded")
            self.active = True

    @property
    def names(self) -> tuple[str, str]:
        return f"q{self.rounds}a", f"q{self.rounds}b"

    @property
    def state(self) -> str:
        return "active" if self.active else "needs_input" if self.open else "idle"


class World:
    """A gateway and its model, step by step."""

    def __init__(self, gate: Gateway, model: Model) -> None:
        self.gate = gate
        self.model = model

    async def act(self, verb: str, number: int) -> None:
        gate, model = self.gate, self.model
        active = gate.live().active_run_id or ""
        if verb == "chat":
            await gate.chat(run_id=f"r{number}")
            model.chat(front=False, run_id=f"r{number}")
        elif verb == "interrupt":
            await gate.chat(run_id=f"r{number}", on_busy="interrupt")
            model.chat(front=True, run_id=f"r{number}")
        elif verb == "reject":
            with suppress(Refused):
                await gate.chat(run_id=f"r{number}", on_busy="reject")
            if not model.active and not model.queue:
                model.chat(front=False, run_id=f"r{number}")
        elif verb in ("ask", "fail") and model.active:
            model.rounds += 1
            first, second = model.names
            at = gate.clock.now_ms() + SECONDS * 1000
            gate.agent.do(
                active,
                ToolStart(f"c{number}", "pay"),
                InputRequired("?", "approval", f"c{number}", None, format_ms(at), first),
                InputRequired("?", request_id=second),
                RETURN if verb == "ask" else RuntimeError("no"),
            )
            model.active = False
            model.open |= {first: at, second: None}
            if verb == "fail":
                model.close("cancelled")
            model.next()
        elif verb == "end" and model.active:
            gate.agent.do(active, RETURN)
            model.active = False
            model.next()
        elif verb.startswith("answer"):
            await self.answer(verb.removeprefix("answer "), number)
        elif verb == "other answer":
            await self.other_answer()
        else:
            await self.pass_by(verb)

    async def pass_by(self, verb: str) -> None:
        """Cancel, or let time pass."""
        gate, model = self.gate, self.model
        if verb == "cancel":
            await gate.manager.cancel_session(ME, "s")
            model.queue, model.active = [], False
            model.close("cancelled")
        elif verb == "tick":
            gate.clock.advance(SECONDS)
            gate.manager._input_expiry.expire_due()
            expired = [name for name, at in model.open.items() if at is not None]
            if expired:
                model.close("expired", *expired)
                model.active = not model.open

    async def answer(self, which: str, number: int) -> None:
        model = self.model
        wanted = dict(zip("ab", model.names, strict=True))
        names = list(wanted.values()) if which == "both" else [wanted[which]]
        values: dict[str, Any] = {
            name: {"approved": True} if name.endswith("a") else "blue" for name in names
        }
        told: object = None
        try:
            inputs = Inputs(values, run_id=f"r{number}")
            told = (await self.gate.manager.answer_inputs(ME, "s", inputs)).answer
        except BambooError as refused:
            told = refused
        if not model.rounds:
            assert isinstance(told, NotFound)
        elif any(model.closed.get(name) == "expired" for name in names):
            assert isinstance(told, Gone)
        elif any(name in model.closed for name in names):
            # Some may be closed and others answered: the first that is refused is named.
            assert isinstance(told, Refused)
            assert told.code == "input-closed"
        else:
            assert isinstance(told, dict)
            new = [name for name in names if name in model.open]
            for name in new:
                del model.open[name]
                model.given[name] = values[name]
            if new and not model.open:
                assert told["run_id"] == f"r{number}"
                model.active = True

    async def other_answer(self) -> None:
        for name in self.model.names:
            if name in self.model.given:
                value = {"approved": False} if name.endswith("a") else "red"
                with pytest.raises(Refused) as refused:
                    await self.gate.manager.answer_inputs(ME, "s", Inputs({name: value}))
                assert refused.value.code == "already-answered"

    async def check(self) -> None:
        gate, model = self.gate, self.model
        head = gate.live().head
        assert [one.request_id for one in head.open_requests] == list(model.open)
        assert len(head.queue) == len(model.queue)
        assert (head.active is not None) == model.active
        view = (await gate.manager.get_session(ME, "s")).session
        assert view["state"] == model.state
        log = await gate.log()
        given = [event["request_id"] for event in log if event["type"] == "input_given"]
        assert Counter(given) == Counter(dict.fromkeys(model.given, 1))
        closed = {e["request_id"]: e["reason"] for e in log if e["type"] == "input_closed"}
        assert closed == model.closed
        # Every call has its result before anything else is said, unless it waits for people.
        waiting: list[str] = []
        for event in log:
            if event["type"] == "message":
                message = event["message"]
                if message["role"] == "tool":
                    waiting.remove(message["tool_call_id"])
                else:
                    assert not waiting
                    waiting = [call["id"] for call in message.get("tool_calls") or ()]
        if not model.active:
            assert bool(waiting) == bool(model.open)


async def live(verbs: list[str]) -> None:
    clock, model, store = FakeClock(), Model(), None
    at = 0
    while at < len(verbs):
        left: SessionStore | None = None
        async with gateway(store, clock=clock, disconnect_retention_seconds=0.001) as gate:
            if store is None:
                await gate.chat(run_id="r")
                model.active = True
            world = World(gate, model)
            async with gate.manager._registry.use(ME, "s"):
                await quiet()
            while at < len(verbs) and left is None:
                verb, at = verbs[at], at + 1
                if verb == "restart":
                    left = await crash(gate)
                    gate.store.release_appends()
                    model.active = False
                    model.next()
                else:
                    with anyio.fail_after(DEADLINE_SECONDS):
                        await world.act(verb, at)
                        await quiet()
                        await world.check()
        store = left


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(VERBS)
def test_any_sequence_agrees_with_a_plain_model(verbs: list[str]) -> None:
    anyio.run(live, verbs)
