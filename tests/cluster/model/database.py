"""What the database does with a statement: the fences, and the outcome."""

from typing import Literal

from tests.cluster.model.rules import Rules
from tests.cluster.model.state import Commit, Session, State, Tombstone, fold

Outcome = Literal["stored", "conflict", "gone", "broken"]


def execute(state: State, rules: Rules, commit: Commit) -> tuple[State, Outcome]:
    """Execute a statement. Return the database after it, and what its answer says.

    `conflict`: the head is another one. `gone`: there is no session of that epoch. `broken`: the
    transaction had locked the row, and the database has ended it since; or it starts a run for an
    executor that has no row.
    """
    session = state.session
    if commit.kind == "create":
        if session is not None:
            return state, "conflict"
        if rules.tombstone and commit.epoch <= state.tombstone.epoch:
            return state, "gone"
        if rules.start_needs_row and _has_no_row(state, commit):
            return state, "broken"
        made = Session(commit.epoch, commit.entries)
        last = max(state.last_epoch, commit.epoch)
        return state._replace(session=made, last_epoch=last), "stored"
    if session is None:
        return state, "gone"
    if session.epoch != commit.epoch and (
        rules.delete_fence if commit.kind == "delete" else rules.epoch_fence
    ):
        return state, "gone"
    if commit.kind == "delete":
        keys = tuple(sorted({*state.tombstone.keys, *fold(session.log).keys}))
        tombstone = Tombstone(session.epoch, keys if rules.gone_keys else ())
        past = (*state.past, session)
        return state._replace(session=None, tombstone=tombstone, past=past), "stored"
    if rules.fence and len(session.log) != commit.base:
        return state, "conflict"
    if fold(session.log).is_packed:
        return state, "conflict"
    if rules.second_check and commit.dead in state.executors and not commit.is_fresh:
        return state, "conflict"
    if rules.start_needs_row and _has_no_row(state, commit):
        return state, "broken"
    wrong = _closes_a_healthy_run(state, commit)
    after = Session(session.epoch, session.log + commit.entries)
    return state._replace(session=after, wrong=state.wrong or wrong), "stored"


def is_stored(state: State, rules: Rules, commit: Commit) -> bool:
    """Look for a commit by its id, after it was refused."""
    if not rules.look_up:
        return False
    session = state.session
    if commit.kind == "delete":
        return session is None or session.epoch != commit.epoch
    if session is None or session.epoch != commit.epoch:
        return False
    if fold(session.log).is_packed:
        return False  # the rows of events are compressed, and have no ids of commits
    return session.log[commit.base : commit.base + len(commit.entries)] == commit.entries


def _has_no_row(state: State, commit: Commit) -> bool:
    """Return whether a commit starts a run for an executor whose row was removed."""
    starts = [entry for entry in commit.entries if entry.kind == "start"]
    return any(entry.detail not in state.executors for entry in starts)


def _closes_a_healthy_run(state: State, commit: Commit) -> str:
    """Say so when a run ends as interrupted whose executor is well, and not told to end it."""
    assert state.session is not None
    executor = fold(state.session.log).executor
    for entry in commit.entries:
        if entry.kind == "end" and entry.detail == "interrupted" and commit.purpose == "close":
            for process in state.processes:
                runs_it = process.execution and process.execution.run == entry.subject
                owns_it = process.executor == executor != entry.writer
                if process.is_healthy and (runs_it or owns_it):
                    return (
                        f"run {entry.subject} was closed, and {process.name}, its executor, is well"
                    )
    return ""
