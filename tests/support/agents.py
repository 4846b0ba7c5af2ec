"""Agents whose every step the test releases."""

from collections import deque
from collections.abc import AsyncIterator

import anyio
from typing_extensions import override

from bamboo_gateway.agents.base import Agent, Turn
from bamboo_gateway.domain.events import AgentEvent

RETURN = object()
"""The step with which an agent returns without a terminal event."""

Step = AgentEvent | BaseException | object


class Script:
    """What one run does: the steps given so far, and how far it has come.

    Attributes:
        started: Set when the agent was asked.
        finished: Set when its generator has ended, however.
        taken: How many steps it has taken.
        was_cancelled: Whether cancellation reached it.
        swallow: Answers cancellation by going on with the next step.
    """

    def __init__(self) -> None:
        self.turn: Turn | None = None
        self.started = anyio.Event()
        self.finished = anyio.Event()
        self.taken = 0
        self.was_cancelled = False
        self.swallow = False
        self._steps: deque[Step] = deque()
        self._more = anyio.Event()

    def do(self, *steps: Step) -> None:
        """Release further steps."""
        self._steps += steps
        self._more.set()

    async def next(self) -> Step:
        while not self._steps:
            self._more = anyio.Event()
            await self._more.wait()
        self.taken += 1
        return self._steps.popleft()


class ScriptedAgent(Agent):
    """Does in each run what its script says; a run without one waits for it."""

    def __init__(self) -> None:
        self.scripts: dict[str, Script] = {}
        self.asked: list[str] = []

    def script(self, run_id: str) -> Script:
        """Return the script of a run, which may begin later."""
        return self.scripts.setdefault(run_id, Script())

    def do(self, run_id: str, *steps: Step) -> None:
        """Release steps of a run: events to yield, errors to raise, or `RETURN`."""
        self.script(run_id).do(*steps)

    @override
    async def run(self, turn: Turn) -> AsyncIterator[AgentEvent]:
        script = self.script(turn.run_id)
        script.turn = turn
        self.asked.append(turn.run_id)
        script.started.set()
        try:
            while True:
                try:
                    step = await script.next()
                except anyio.get_cancelled_exc_class():
                    script.was_cancelled = True
                    if not script.swallow:
                        raise
                    return
                if step is RETURN:
                    return
                if isinstance(step, BaseException):
                    raise step
                yield step  # type: ignore[misc]
        finally:
            script.finished.set()
