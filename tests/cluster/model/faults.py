"""What goes wrong, and what brings it back: kills, stops, lost answers, outages, new processes."""

from collections.abc import Iterator

from tests.cluster.model.database import execute
from tests.cluster.model.replicas import Step, answered, shown, stored
from tests.cluster.model.rules import Bounds, Rules
from tests.cluster.model.state import Commit, Process, State, fold

_GHOSTS_MAX = 2


def steps(state: State, rules: Rules, bounds: Bounds) -> Iterator[Step]:
    """Yield each fault that may still happen, and each repair."""
    yield from _database(state, rules)
    for number, process in enumerate(state.processes):
        match process.status:
            case "up":
                yield from _strikes(state, rules, number, process)
                if process.flight is not None:
                    yield from _loses(state, rules, number, process, process.flight)
            case "stopped":
                after = state.with_process(number, process._replace(status="up"))
                yield Step(f"SIGCONT {process.name}", after, is_fault=True)
            case "dead":
                yield _boots(state, rules, number, process)
            case _:
                pass
        may_spawn = process.status == "stopped" or process.is_draining
        if may_spawn and process.status != "dead" and state.faults.spawns:
            yield _spawns(state, rules, process)


def _database(state: State, rules: Rules) -> Iterator[Step]:
    if not state.is_up:
        yield Step("the database is back", state._replace(is_up=True))
        return
    if state.faults.outages:
        # An open transaction ends with its connection.
        down = state.with_fault("outages")._replace(is_up=False, lock=-1)
        yield Step("the database goes away", down, is_fault=True)
    if state.lock >= 0 and rules.lock_timeout:
        yield Step("the database ends the transaction that locks", state._replace(lock=-1))
    if state.faults.reaps:
        yield from _reaps(state)
    for place, ghost in enumerate(state.ghosts):
        rest = state._replace(ghosts=state.ghosts[:place] + state.ghosts[place + 1 :])
        yield Step(f"a statement without a sender vanishes: {shown(ghost)}", rest)
        if state.lock < 0:
            after, outcome = execute(rest, rules, ghost)
            if outcome == "stored":
                yield Step(f"a statement without a sender is executed: {shown(ghost)}", after)


def _reaps(state: State) -> Iterator[Step]:
    """Remove the row of an executor that has not moved for an hour and has no run."""
    in_use = fold(state.session.log).executor if state.session else 0
    for process in state.processes:
        executor = process.executor
        if process.is_sick and executor in state.executors and executor != in_use:
            rows = tuple(one for one in state.executors if one != executor)
            after = state.with_fault("reaps")._replace(executors=rows)
            yield Step(f"the row of executor {executor} is removed", after, is_fault=True)


def _strikes(state: State, rules: Rules, number: int, process: Process) -> Iterator[Step]:
    faults, name = state.faults, process.name
    if faults.kills:
        dead = Process(name, "dead", process.executor)
        after = state.with_fault("kills").with_process(number, dead)
        # Its lock stays until the database ends the transaction (`lock_timeout`).
        yield Step(f"kill -9 {name}", after, is_fault=True)
        if process.flight is not None and state.is_up:
            after = _with_ghost(after, process.flight)
            yield Step(f"kill -9 {name}, whose statement is on its way", after, is_fault=True)
    if faults.stops:
        stopped = process._replace(status="stopped", is_sick=True)
        after = state.with_fault("stops").with_process(number, stopped)
        yield Step(f"SIGSTOP {name}", after, is_fault=True)
    if faults.hangs:
        after = state.with_fault("hangs").with_process(number, process._replace(status="hung"))
        yield Step(f"the loop of {name} hangs for good", after, is_fault=True)
    if faults.terms and not process.is_draining:
        draining = process._replace(is_draining=True)
        after = state.with_fault("terms").with_process(number, draining)
        if not rules.rows_last:
            rows = tuple(one for one in after.executors if one != process.executor)
            after = after._replace(executors=rows)
        yield Step(f"SIGTERM {name}", after, is_fault=True)


def _loses(
    state: State, rules: Rules, number: int, process: Process, commit: Commit
) -> Iterator[Step]:
    """Lose an answer: the statement may have been executed, or never, or may be so later."""
    name = process.name
    if not state.is_up and commit.is_again:
        # It waits for a while only. Who executes a run waits on: its events have to be stored.
        if commit.purpose != "run":
            given_up = process._replace(flight=None)
            after = state.with_process(number, given_up)
            if commit.purpose == "request":
                after = answered(after, number, given_up, "unknown", 0)
            yield Step(f"{name}: gives up to ask for {shown(commit)}", after)
        return
    if not state.faults.losses or len(state.ghosts) >= _GHOSTS_MAX:
        return
    waiting = process._replace(flight=commit._replace(is_again=True, is_locked=False))
    lost = state.with_fault("losses")
    if commit.is_locked and state.lock == number:
        lost = lost._replace(lock=-1)
    if rules.unknown_is_asked:
        after = lost.with_process(number, waiting)
    else:
        after = stored(lost, rules, number, waiting._replace(flight=None), commit)
    yield Step(f"the connection of {name} breaks at {shown(commit)}", after, is_fault=True)
    text = f"the connection of {name} breaks, and {shown(commit)} is still on its way"
    yield Step(text, _with_ghost(after, commit), is_fault=True)


def _with_ghost(state: State, commit: Commit) -> State:
    return state._replace(ghosts=tuple(sorted((*state.ghosts, commit._replace(is_locked=False)))))


def _boots(state: State, rules: Rules, number: int, process: Process) -> Step:
    fresh = _new_process(state, rules, process)
    after = state.with_process(number, fresh)
    executors = tuple(sorted({*state.executors, fresh.executor}))
    text = f"a new process {fresh.name} is started, executor {fresh.executor}"
    return Step(text, after._replace(executors=executors))


def _spawns(state: State, rules: Rules, process: Process) -> Step:
    fresh = _new_process(state, rules, process)
    after = state.with_fault("spawns")
    after = after._replace(
        processes=(*after.processes, fresh),
        executors=tuple(sorted({*state.executors, fresh.executor})),
    )
    text = f"{fresh.name} is started beside {process.name}, executor {fresh.executor}"
    return Step(text, after, is_fault=True)


def _new_process(state: State, rules: Rules, process: Process) -> Process:
    newest = max(one.executor for one in state.processes)
    executor = newest + 1 if rules.new_ids else process.executor
    return Process(f"{process.name}'", "up", executor)
