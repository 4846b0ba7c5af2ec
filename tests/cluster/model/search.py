"""The search: breadth first, so that the trace to a broken invariant is a shortest one."""

from collections import deque
from dataclasses import dataclass

from typing_extensions import override

from tests.cluster.model import faults, heartbeats, replicas
from tests.cluster.model.invariants import broken
from tests.cluster.model.rules import Bounds, Rules
from tests.cluster.model.state import (
    Asked,
    Entry,
    Execution,
    Faults,
    Process,
    Session,
    State,
    Tombstone,
    fold,
)


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found.

    Attributes:
        states: How many states it explored.
        steps: How many steps lead from them.
        problem: The broken invariant, in words; empty when all states are right.
        trace: The steps that lead to it.
    """

    states: int
    steps: int
    problem: str = ""
    trace: tuple[str, ...] = ()

    @override
    def __str__(self) -> str:
        """Return it as somebody reads it."""
        if not self.problem:
            return f"{self.states} states, {self.steps} steps: all right"
        lines = [f"{number:3} {label}" for number, label in enumerate(self.trace, 1)]
        return "\n".join([f"{self.problem}, after {len(lines)} steps:", *lines])


def first_state(bounds: Bounds) -> State:
    """Return the state before anything happens: two replicas, and a run perhaps."""
    first, second = Process("A", "up", 1), Process("B", "up", 2)
    session: Session | None = None
    starts: tuple[str, ...] = ()
    if bounds.with_run:
        session = Session(1, (Entry("start", "r", 1, 1, ""),))
        first = first._replace(execution=Execution("r", 1, 0))
        starts = ("r",)
    left = Faults(
        bounds.kills,
        bounds.stops,
        bounds.losses,
        bounds.outages,
        bounds.hangs,
        bounds.terms,
        bounds.spawns,
        bounds.reaps,
    )
    return State(
        session=session,
        last_epoch=1 if session else 0,
        tombstone=Tombstone(0, ()),
        past=(),
        ghosts=(),
        lock=-1,
        is_up=True,
        executors=(1, 2),
        processes=(first, second),
        asked=tuple(Asked("new") for _ in bounds.wanted),
        starts=starts,
        faults=left,
    )


def explore(bounds: Bounds, rules: Rules | None = None, *, states_max: int = 2_000_000) -> Found:
    """Explore all states within the bounds, until one breaks an invariant.

    When none does, look for states from which no quiet end can be reached without another fault.

    Raises:
        MemoryError: There are more than `states_max` states; the bounds are too wide.
    """
    rules = rules or Rules()
    first = first_state(bounds)
    numbers: dict[State, int] = {first: 0}
    states, came = [first], [(-1, "")]
    before: list[list[int]] = [[]]
    waiting = deque([0])
    count = 0
    while waiting:
        number = waiting.popleft()
        state = states[number]
        for module in (replicas, heartbeats, faults):
            for label, after, is_fault in module.steps(state, rules, bounds):
                count += 1
                known = numbers.get(after)
                if known is None:
                    known = numbers[after] = len(states)
                    states.append(after)
                    came.append((number, label))
                    before.append([])
                    if problem := broken(after, bounds):
                        return Found(len(states), count, problem, _trace(came, known))
                    if len(states) > states_max:
                        raise MemoryError(f"more than {states_max} states")
                    waiting.append(known)
                if not is_fault and known != number:
                    before[known].append(number)
    stuck = _stuck(states, before)
    if stuck is not None:
        return Found(len(states), count, "no quiet end can be reached", _trace(came, stuck))
    return Found(len(states), count)


def is_quiet(state: State) -> bool:
    """Return whether everything has come to its end, as far as living processes can do it."""
    if all(process.status in {"stopped", "hung"} for process in state.processes):
        return True
    if not state.is_up or state.lock >= 0 or state.ghosts:
        return False
    for process in state.processes:
        is_busy = process.request >= 0 or process.flight or process.execution
        if process.status == "up" and is_busy:
            return False
    if state.session is None:
        return True
    head = fold(state.session.log)
    return not head.active and not head.queue


def _stuck(states: list[State], before: list[list[int]]) -> int | None:
    """Return the first state from which no quiet state can be reached, if there is one."""
    reaches = [is_quiet(state) for state in states]
    waiting = [number for number, is_one in enumerate(reaches) if is_one]
    while waiting:
        for number in before[waiting.pop()]:
            if not reaches[number]:
                reaches[number] = True
                waiting.append(number)
    return next((number for number, does in enumerate(reaches) if not does), None)


def _trace(came: list[tuple[int, str]], number: int) -> tuple[str, ...]:
    labels = []
    while number > 0:
        number, label = came[number]
        labels.append(label)
    return tuple(reversed(labels))
