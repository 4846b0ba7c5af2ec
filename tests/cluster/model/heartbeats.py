"""Heartbeats, who is dead, and what is done about his run.

A heartbeat is a counter in the executor's row, and nobody compares clocks. The model needs no
numbers: all that matters of a counter is whether it moved since somebody looked (`Watch.has_moved`,
`Commit.is_fresh`).
"""

from collections.abc import Iterator

from tests.cluster.model import decisions
from tests.cluster.model.database import execute
from tests.cluster.model.replicas import Step, shown
from tests.cluster.model.rules import Bounds, Rules
from tests.cluster.model.state import Commit, Process, State, Watch, fold


def steps(state: State, rules: Rules, bounds: Bounds) -> Iterator[Step]:
    """Yield the renewals, the rounds of the clock, and the decisions to close a dead one's run."""
    for number, process in enumerate(state.processes):
        runs = process.status == "up" or (process.status == "hung" and not rules.loop_watched)
        is_wanted = process.is_due or not rules.paced if bounds.has_clock else process.is_sick
        if runs and is_wanted:
            if state.is_up:
                yield Step(
                    f"{process.name}: renews", _renewed(state, rules, bounds, number, process)
                )
            elif bounds.has_clock:
                after = state.with_process(number, _failed(process, rules, bounds))
                yield Step(f"{process.name}: cannot renew", after)
        if process.status == "up" and state.is_up:
            if process.flight is None:
                yield from _takeover(state, rules, bounds, number, process)
            elif not rules.tidy_waits and process.execution is None:
                yield from _tidied_at_once(state, rules, process)
    if bounds.has_clock:
        yield from _next_round(state, rules, bounds)


def _renewed(state: State, rules: Rules, bounds: Bounds, number: int, process: Process) -> State:
    """Move the counter of a process, and let it look at the others'."""
    me = process.executor
    if me not in state.executors:
        return _with_new_row(state, rules, number, process)
    processes = [
        other._replace(
            flight=_after_move(other.flight, me) if other.flight else None,
            watches=tuple(
                watch._replace(has_moved=True) if watch.executor == me else watch
                for watch in other.watches
            ),
        )
        for other in state.processes
    ]
    known = {watch.executor: watch for watch in process.watches}
    watches = []
    for executor in state.executors if bounds.has_clock else ():
        if executor == me:
            continue
        watch = known.get(executor)
        rounds = 0
        if watch is not None and not watch.has_moved:
            rounds = min(watch.rounds + 1, bounds.silent_rounds)
        watches.append(Watch(executor, rounds, has_moved=False))
    processes[number] = processes[number]._replace(
        is_sick=False, is_due=False, watches=tuple(watches)
    )
    ghosts = tuple(sorted(_after_move(ghost, me) for ghost in state.ghosts))
    return state._replace(processes=tuple(processes), ghosts=ghosts)


def _with_new_row(state: State, rules: Rules, number: int, process: Process) -> State:
    """Let a process begin anew whose row somebody has removed."""
    process = process._replace(is_sick=False, is_due=False)
    if not rules.new_row:
        return state.with_process(number, process)
    executor = max(one.executor for one in state.processes) + 1
    fresh = process._replace(executor=executor, execution=None)
    executors = tuple(sorted({*state.executors, executor}))
    return state.with_process(number, fresh)._replace(executors=executors)


def _after_move(commit: Commit, executor: int) -> Commit:
    return commit._replace(is_fresh=False) if commit.dead == executor else commit


def _failed(process: Process, rules: Rules, bounds: Bounds) -> Process:
    """Return a process whose renewal failed."""
    watches = process.watches
    if not rules.own_renewals:
        most = bounds.silent_rounds
        watches = tuple(one._replace(rounds=min(one.rounds + 1, most)) for one in watches)
    else:
        watches = tuple(one._replace(rounds=0) for one in watches)
    return process._replace(watches=watches, is_due=process.is_due and rules.quick_retry)


def _next_round(state: State, rules: Rules, bounds: Bounds) -> Iterator[Step]:
    """Begin the next round: everybody who can has renewed in this one."""
    running = [one for one in state.processes if one.status == "up"]
    if state.is_up and any(one.is_due for one in running):
        return
    if all(one.is_due for one in running) and state.is_up:
        return
    processes = tuple(
        (_failed(one, rules, bounds) if one.is_due else one)._replace(is_due=True)
        if one.status in {"up", "hung"}
        else one
        for one in state.processes
    )
    yield Step("the next round of renewals", state._replace(processes=processes))


def _takeover(
    state: State, rules: Rules, bounds: Bounds, number: int, process: Process
) -> Iterator[Step]:
    """Close the run of an executor that the process takes for dead."""
    if state.session is None:
        return
    executor = fold(state.session.log).executor
    if not executor or executor == process.executor:
        return
    if executor in state.executors and not _seems_dead(state, rules, bounds, process, executor):
        return
    # The closing append names the counter that the observer has seen, which may be an old one.
    is_fresh = not rules.judged_counter or not any(
        watch.has_moved for watch in process.watches if watch.executor == executor
    )
    commit = (
        decisions.on_open_run(state, process, dead=executor)
        if rules.never_again
        else decisions.on_execution_again(state, process, executor)
    )
    if commit is not None:
        commit = commit._replace(is_fresh=is_fresh)
        after = state.with_process(number, process._replace(flight=commit))
        text = f"{process.name}: takes executor {executor} for dead, decides {shown(commit)}"
        yield Step(text, after)


def _tidied_at_once(state: State, rules: Rules, process: Process) -> Iterator[Step]:
    """Close a run of one's own though its start may be on its way: what no replica does."""
    if commit := decisions.on_open_run(state, process):
        after, _ = execute(state, rules, commit)
        wrong = f"run {commit.entries[0].subject} was closed while {process.name} waits to start it"
        yield Step(f"{process.name}: sends {shown(commit)}", after._replace(wrong=wrong))


def _seems_dead(
    state: State, rules: Rules, bounds: Bounds, process: Process, executor: int
) -> bool:
    if bounds.has_clock:
        return any(
            watch.executor == executor and watch.rounds >= bounds.silent_rounds
            for watch in process.watches
        )
    return all(
        one.status in {"stopped", "dead"}
        or (one.status == "hung" and rules.loop_watched)
        or one.is_sick
        for one in state.processes
        if one.executor == executor
    )
