"""The steps of a replica that serve requests and execute runs."""

from collections.abc import Iterator
from typing import NamedTuple

from tests.cluster.model import decisions
from tests.cluster.model.database import execute, is_stored
from tests.cluster.model.rules import Bounds, Rules
from tests.cluster.model.state import Commit, Execution, Process, Session, State, fold


class Step(NamedTuple):
    """One step.

    Attributes:
        label: What happens, for a trace.
        state: The state behind it.
        is_fault: Nobody may rely on it to come to an end.
    """

    label: str
    state: State
    is_fault: bool = False


def steps(state: State, rules: Rules, bounds: Bounds) -> Iterator[Step]:
    """Yield each step that a client or a replica can take."""
    yield from _asks(state, bounds)
    for number, process in enumerate(state.processes):
        if process.status != "up" or not state.is_up:
            continue
        if process.flight is not None:
            if state.lock in {-1, number} or process.flight.is_locked:
                yield _sent(state, rules, number, process, process.flight)
            continue
        yield from _decided(state, rules, bounds, number, process)


def _asks(state: State, bounds: Bounds) -> Iterator[Step]:
    """Clients send their requests, and once again elsewhere those that have a key."""
    answered = {
        wanted.name
        for wanted, asked in zip(bounds.wanted, state.asked, strict=True)
        if asked.status not in {"new", "open"}
    }
    for number, wanted in enumerate(bounds.wanted):
        asked = state.asked[number]
        if wanted.after and wanted.after not in answered:
            continue
        is_unsettled = asked.status in {"open", "unknown"}
        may_repeat = is_unsettled and wanted.is_keyed and asked.times < 2
        if asked.status != "new" and not may_repeat:
            continue
        is_first = not any(other.times for other in state.asked) and not bounds.with_run
        for place, process in enumerate(state.processes):
            is_free = process.status == "up" and process.request < 0 and not process.is_draining
            # The replicas are alike: the very first request goes to the first of them.
            if is_free and not (is_first and place):
                after = state.with_process(place, process._replace(request=number))
                after = after.with_asked(
                    number, asked._replace(status="open", times=asked.times + 1)
                )
                how = "again " if may_repeat else ""
                yield Step(f"client: {how}{wanted.kind} '{wanted.name}' to {process.name}", after)


def _decided(
    state: State, rules: Rules, bounds: Bounds, number: int, process: Process
) -> Iterator[Step]:
    if process.request >= 0:
        yield from _request_decided(state, rules, bounds, number, process)
    if process.execution is not None:
        commit = decisions.on_execution(state, bounds, process)
        if commit is None:
            after = state.with_process(number, process._replace(execution=None))
            yield Step(f"{process.name}: sees that run {process.execution.run} is over", after)
        else:
            yield _flies(state, rules, number, process, commit)
            if process.is_draining:
                end = commit.entries[0]._replace(kind="end", detail="interrupted")
                yield _flies(state, rules, number, process, commit._replace(entries=(end,)))
        return
    if not process.is_draining and (commit := decisions.on_queue(state, rules, process)):
        yield _flies(state, rules, number, process, commit)
    # Its renewal lists the open runs that it owns. Nothing of its own is on its way here.
    if rules.tidy and (commit := decisions.on_open_run(state, process)):
        yield _flies(state, rules, number, process, commit)
    if process.is_draining and process.request < 0:
        executors = tuple(one for one in state.executors if one != process.executor)
        after = state.with_process(number, process._replace(status="dead"))
        yield Step(
            f"{process.name}: removes its row and exits", after._replace(executors=executors)
        )


def _request_decided(
    state: State, rules: Rules, bounds: Bounds, number: int, process: Process
) -> Iterator[Step]:
    locks = rules.lock_third and process.conflicts >= 2
    if locks and state.lock >= 0:
        return
    wanted = bounds.wanted[process.request]
    found = decisions.on_request(state, rules, process, wanted)
    if isinstance(found, Commit):
        if locks and state.session is not None:
            found = found._replace(is_locked=True)
            state = state._replace(lock=number)
        yield _flies(state, rules, number, process, found, for_request=wanted.name)
    else:
        answer, epoch = found
        after = answered(state, number, process, answer, epoch)
        yield Step(f"{process.name}: answers '{wanted.name}': {answer}", after)


def _flies(
    state: State,
    rules: Rules,
    number: int,
    process: Process,
    commit: Commit,
    for_request: str = "",
) -> Step:
    process = process._replace(flight=commit)
    after = state.with_process(number, process)
    if not rules.start_after_answer and process.execution is None:
        after = _begun(after, number, process, commit)
    how = "locks the row, " if commit.is_locked else ""
    why = f" for '{for_request}'" if for_request else ""
    why += f", as executor {commit.dead} is dead" if commit.dead else ""
    return Step(f"{process.name}: {how}decides {shown(commit)}{why}", after)


def answered(state: State, number: int, process: Process, answer: str, epoch: int) -> State:
    """Return the state once the client of a process's request has its answer."""
    request = process.request
    state = state.with_process(number, process._replace(request=-1, conflicts=0))
    asked = state.asked[request] if request >= 0 else None
    if asked is None or asked.status != "open":
        return state  # its client has an answer already
    is_tried_elsewhere = any(
        other.request == request and place != number and other.status != "dead"
        for place, other in enumerate(state.processes)
    )
    if answer == "unknown" and is_tried_elsewhere:
        return state
    return state.with_asked(request, asked._replace(status=answer, epoch=epoch))


def _sent(state: State, rules: Rules, number: int, process: Process, commit: Commit) -> Step:
    """Execute the statement of a process, which gets the answer."""
    if commit.is_locked and state.lock != number:
        after, outcome = state, "broken"
    else:
        after, outcome = execute(state, rules, commit)
    if commit.is_locked and after.lock == number:
        after = after._replace(lock=-1)
    label = f"{process.name}: sends {shown(commit)}: {outcome}"
    if outcome in {"conflict", "gone"} and commit.is_again and is_stored(after, rules, commit):
        outcome = "stored"
        label += ", but its id is there"
    process = process._replace(flight=None)
    if outcome == "stored":
        return Step(label, stored(after, rules, number, process, commit))
    return Step(label, _refused(after, rules, number, process, commit, outcome))


def stored(state: State, rules: Rules, number: int, process: Process, commit: Commit) -> State:
    """Return the state once a process knows that its commit is stored."""
    if process.execution is None:
        state = _begun(state, number, process, commit)
        process = state.processes[number]
    execution = process.execution
    if commit.purpose == "run" and execution is not None:
        said = execution.said + (commit.entries[0].kind == "token")
        is_over = commit.entries[0].kind == "end"
        process = process._replace(execution=None if is_over else execution._replace(said=said))
    if commit.purpose == "request":
        return answered(state, number, process, "done", commit.epoch)
    return state.with_process(number, process)


def _begun(state: State, number: int, process: Process, commit: Commit) -> State:
    """Start the agent of a run that a commit starts."""
    for entry in commit.entries:
        if entry.kind == "start":
            process = process._replace(execution=Execution(entry.subject, commit.epoch, 0))
            state = state._replace(starts=tuple(sorted((*state.starts, entry.subject))))
    return state.with_process(number, process)


def _refused(
    state: State, rules: Rules, number: int, process: Process, commit: Commit, outcome: str
) -> State:
    """Return the state once a process knows that its commit is not stored."""
    session = state.session
    if not rules.decide_again and session is not None:
        commit = commit._replace(base=len(session.log), epoch=session.epoch, is_again=False)
        return state.with_process(number, process._replace(flight=commit))
    execution = process.execution
    if commit.purpose == "run" and execution is not None and not rules.keep_drafts:
        said = execution.said + (commit.entries[0].kind == "token")
        process = process._replace(execution=execution._replace(said=said))
    if not rules.start_after_answer and execution is not None:
        process = process._replace(execution=None)
    if commit.purpose == "request":
        if commit.is_again and outcome != "broken" and _is_hidden(session, rules, commit):
            return answered(state, number, process, "unknown", 0)
        # A lost answer, and a transaction that the database ended, are no refusals by others. And
        # what another session of the same id refuses has nothing to do with this one's traffic.
        counts = outcome == "conflict" and not commit.is_again
        conflicts = process.conflicts + counts if outcome != "gone" else 0
        process = process._replace(conflicts=0 if commit.kind == "create" else conflicts)
    return state.with_process(number, process)


def _is_hidden(session: Session | None, rules: Rules, commit: Commit) -> bool:
    """Return whether nothing shows any more if a commit was stored: its rows are not there."""
    if session is None or session.epoch != commit.epoch:
        return rules.unknown_stays
    return rules.packed_is_unknown and fold(session.log).is_packed


def shown(commit: Commit) -> str:
    """Return a statement as a trace shows it."""
    words = [
        f"{one.kind} {one.subject}"
        + (f"#{one.detail}" if one.kind == "token" else "")
        + (f" ({one.detail})" if one.kind == "end" else "")
        + (f" (executor {one.detail})" if one.kind == "start" else "")
        for one in commit.entries
    ]
    at = f"{commit.epoch}-{commit.base}" if commit.kind != "delete" else f"{commit.epoch}"
    again = " again" if commit.is_again else ""
    return f"{commit.kind}{again} at {at} [{', '.join(words)}]"
