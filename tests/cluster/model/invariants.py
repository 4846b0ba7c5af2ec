"""What has to hold in every state."""

from collections import Counter
from functools import lru_cache

from tests.cluster.model.rules import Bounds
from tests.cluster.model.state import Entry, Head, Log, Session, State, fold

_EFFECT = {
    "chat": {"queued", "start"},
    "interrupt": {"queued", "start"},
    "post": {"said"},
    "archive": {"packed"},
    "cancel": {"wish", "end"},
}
"""The entries that are the effect of a request; with it they are in the log once."""


def broken(state: State, bounds: Bounds) -> str:
    """Return which invariant a state breaks, in words; nothing if it breaks none."""
    if state.wrong:
        return state.wrong
    logs = (*state.past, *((state.session,) if state.session else ()))
    return (
        _of_logs(logs, bounds.tokens)
        or _of_positions(logs)
        or _of_requests(state, bounds, logs)
        or _of_replicas(state)
    )


@lru_cache(maxsize=100_000)
def _of_logs(logs: tuple[Session, ...], tokens: int) -> str:
    return next((wrong for one in logs if (wrong := _of_log(one.log, tokens))), "")


def _of_log(log: Log, tokens: int) -> str:
    """R5, R8: each run starts and ends once, and its events stand between the two in order."""
    for place, entry in enumerate(log):
        before = log[:place]
        is_of_run = entry.kind != "said"
        if is_of_run and _has(before, "end", entry.subject):
            return f"{entry.kind} of run {entry.subject} behind its end (R5)"
        if wrong := _of_beginning(before, entry) or _of_course(fold(before), entry, tokens):
            return wrong
    return ""


def _has(log: Log, kind: str, subject: str) -> bool:
    return any(one.kind == kind and one.subject == subject for one in log)


def _of_beginning(before: Log, entry: Entry) -> str:
    run, head = entry.subject, fold(before)
    match entry.kind:
        case "said" if _has(before, "said", run):
            return f"message {run} stands twice (R2)"
        case "queued" if run in head.queue or _has(before, "start", run):
            return f"run {run} is queued twice"
        case "start" if _has(before, "start", run):
            return f"run {run} is started twice"
        case "start" if head.active:
            return f"run {run} starts while {head.active} is active (R8)"
    return ""


def _of_course(head: Head, entry: Entry, tokens: int) -> str:
    run, is_active = entry.subject, head.active == entry.subject
    match entry.kind:
        case "wish" if not is_active:
            return f"the wish to cancel run {run} stands behind it"
        case "token" if not is_active:
            return f"a token of run {run} in a log where it is not active (R5)"
        case "token" if entry.writer != head.executor:
            return f"executor {entry.writer} speaks in the run of {head.executor} (R8)"
        case "token" if entry.detail != head.said:
            return f"token {entry.detail} of run {run} stands at place {head.said} (R2)"
        case "token" if head.is_wished:
            return f"run {run} speaks on behind the wish to cancel it (R6)"
        case "end" if not is_active and run not in head.queue:
            return f"an end of run {run}, which is neither active nor queued (R5)"
        case "end" if entry.detail == "done" and head.said != tokens:
            return f"run {run} is done, and {tokens - head.said} of its tokens are lost (R2)"
    return ""


@lru_cache(maxsize=100_000)
def _of_positions(logs: tuple[Session, ...]) -> str:
    """R3: a position has one content."""
    contents: dict[tuple[int, int], object] = {}
    for epoch, log in logs:
        for place, entry in enumerate(log):
            if contents.setdefault((epoch, place), entry) != entry:
                return f"position {epoch}-{place} was given to two events (R3)"
    return ""


def _of_requests(state: State, bounds: Bounds, logs: tuple[Session, ...]) -> str:
    """R1, R9: what is acknowledged stands once; nothing is done twice; the deleted stays so."""
    deletes = sum(
        asked.times
        for wanted, asked in zip(bounds.wanted, state.asked, strict=True)
        if wanted.kind == "delete"
    )
    if len(state.past) > deletes:
        return "a session was deleted that nobody wanted to delete (R9)"
    for wanted, asked in zip(bounds.wanted, state.asked, strict=True):
        if not asked.times:
            continue
        if wanted.kind == "delete":
            session = state.session
            if asked.status == "done" and asked.epoch and session and session.epoch <= asked.epoch:
                return f"epoch {session.epoch} is there again after it was deleted (R9)"
            continue
        kinds = _EFFECT[wanted.kind]
        places = [
            one.epoch
            for one in logs
            for entry in one.log
            if entry.request == wanted.name and entry.kind in kinds
        ]
        if len(places) > 1:
            return f"request '{wanted.name}' was done twice"
        if asked.status == "refused" and places:
            return f"request '{wanted.name}' was refused, and it is stored (R9)"
        is_stored = wanted.kind in {"chat", "interrupt", "post"}
        if asked.status == "done" and asked.epoch and is_stored and asked.epoch not in places:
            return f"request '{wanted.name}' was acknowledged and is not stored (R1)"
        wrong = _of_cancel(state, wanted.run, asked.epoch) if wanted.kind == "cancel" else ""
        if asked.status == "done" and wrong:
            return wrong
    return ""


def _of_cancel(state: State, run: str, epoch: int) -> str:
    """An acknowledged cancellation is not lost: the run does not end as if nobody had asked."""
    session = state.session
    if session is None or session.epoch != epoch:
        return ""
    ends = [one for one in session.log if one.kind == "end" and one.subject == run]
    is_heard = any(one.kind == "wish" and one.subject == run for one in session.log)
    if ends and ends[0].detail == "done" and not is_heard:
        return f"run {run} ended as done, though its cancellation was acknowledged"
    return ""


def _of_replicas(state: State) -> str:
    """No agent is started twice, and a client's write waits for two conflicts at most."""
    for run, times in Counter(state.starts).items():
        if times > 1:
            return f"the agent of run {run} was started {times} times"
    for process in state.processes:
        if process.conflicts > 2:
            return f"{process.name} was refused {process.conflicts} times in a row"
    return ""
