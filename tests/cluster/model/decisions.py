"""What a replica decides, on the head that it has read just now: pure functions.

Between a decision and its statement anything may happen, so a decision on a stale head is one whose
statement comes late.
"""

from tests.cluster.model.rules import Bounds, Rules, Wanted
from tests.cluster.model.state import Commit, Entry, Process, Session, State, fold

Answer = str
"""`done`, or why a request is refused."""


def on_request(
    state: State, rules: Rules, process: Process, wanted: Wanted
) -> Commit | tuple[Answer, int]:
    """Decide a client's request: return what to store, or the answer and its epoch."""
    session = state.session
    name, me = wanted.name, process.executor
    if wanted.is_keyed and rules.keys_stored:
        if session is not None and name in fold(session.log).keys:
            return "done", session.epoch
        if rules.gone_keys and name in state.tombstone.keys:
            return "done", 0
    if session is None:
        if wanted.kind not in {"chat", "interrupt"}:
            return ("done" if wanted.kind == "delete" else "refused"), 0
        epoch = state.last_epoch + 1 if rules.new_epochs else 1
        start = (Entry("start", name, me, me, name),)
        return Commit("create", "request", epoch, 0, start)
    if wanted.kind == "delete":
        return Commit("delete", "request", session.epoch, len(session.log), ())
    entries = _entries(session, rules, process, wanted)
    if entries is None:
        return "refused", session.epoch
    if not entries:
        return "done", session.epoch
    return Commit("append", "request", session.epoch, len(session.log), entries)


def _entries(
    session: Session, rules: Rules, process: Process, wanted: Wanted
) -> tuple[Entry, ...] | None:
    """Return the entries of a request; None when it is refused."""
    head = fold(session.log)
    name, me = wanted.name, process.executor
    if head.is_packed:
        return None
    if wanted.kind == "archive":
        is_busy = head.active or head.queue
        return None if is_busy else (Entry("packed", name, 0, me, name),)
    if wanted.kind == "post":
        return (Entry("said", name, 0, me, name),)
    if wanted.kind == "cancel":
        if wanted.run in head.queue:
            return (Entry("end", wanted.run, "cancelled", me, name),)
        if wanted.run != head.active:
            return None
        if head.is_wished or not rules.wish_is_stored:
            return ()
        return (Entry("wish", wanted.run, 0, me, name),)
    if not head.active and not head.queue:
        return (Entry("start", name, me, me, name),)
    entries: tuple[Entry, ...] = (Entry("queued", name, 0, me, name),)
    if wanted.kind == "interrupt" and head.active and not head.is_wished:
        entries += (Entry("wish", head.active, 0, me, name),)
    return entries


def on_execution(state: State, bounds: Bounds, process: Process) -> Commit | None:
    """Decide the next event of the run that a process executes; None when that run has ended."""
    execution, session, me = process.execution, state.session, process.executor
    assert execution is not None
    if session is None or session.epoch != execution.epoch:
        return None
    head = fold(session.log)
    if head.active != execution.run or head.executor != me:
        return None
    if head.is_wished:
        entry = Entry("end", execution.run, "cancelled", me, "")
    elif execution.said < bounds.tokens:
        entry = Entry("token", execution.run, execution.said, me, "")
    else:
        entry = Entry("end", execution.run, "done", me, "")
    return Commit("append", "run", session.epoch, len(session.log), (entry,))


def on_queue(state: State, rules: Rules, process: Process) -> Commit | None:
    """Decide the start of the next queued run."""
    session, me = state.session, process.executor
    if session is None:
        return None
    head = fold(session.log)
    if head.active or not head.queue:
        return None
    if not rules.any_starts:
        queued = Entry("queued", head.queue[0], 0, me, head.queue[0])
        if queued not in session.log:
            return None
    start = Entry("start", head.queue[0], me, me, "")
    return Commit("append", "start", session.epoch, len(session.log), (start,))


def on_open_run(state: State, process: Process, *, dead: int = 0) -> Commit | None:
    """Decide the end of a run that nobody executes: one's own, or that of a dead executor."""
    session, me = state.session, process.executor
    if session is None:
        return None
    head = fold(session.log)
    if not head.active or head.executor != (dead or me):
        return None
    end = Entry("end", head.active, "interrupted", me, "")
    return Commit("append", "close", session.epoch, len(session.log), (end,), dead=dead)


def on_execution_again(state: State, process: Process, dead: int) -> Commit | None:
    """Decide to run a dead executor's run once more: what the protocol never does."""
    close = on_open_run(state, process, dead=dead)
    if close is None:
        return None
    again = Entry("start", close.entries[0].subject, process.executor, process.executor, "")
    return close._replace(purpose="start", entries=(again,))
