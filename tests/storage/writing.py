"""A writer for storage tests: makes the commits of a session and waits for their answers."""

import asyncio
from collections.abc import Sequence
from typing import Any

import anyio

from bamboo_gateway.domain import codec
from bamboo_gateway.domain.clock import format_ms
from bamboo_gateway.domain.errors import BambooError
from bamboo_gateway.domain.events import DELTA_TYPES, TERMINAL_TYPES
from bamboo_gateway.domain.projections import fold
from bamboo_gateway.domain.sessions import Presence, SessionHead
from bamboo_gateway.sessions.idempotency import RequestKey
from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.commits import Commit, Event, MarkKind, Note, Record

# Patience with a slow machine: it costs nothing where all goes well.
DEADLINE_SECONDS = 60
T0 = 1_763_661_234_567
# Nobody reads: states follow from the heads alone.
NOBODY = Presence(T0)


class StepClock:
    """A clock that stands still until a test moves it."""

    def __init__(self, now_ms: int = T0) -> None:
        self.ms = now_ms

    def now_ms(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return self.ms / 1000


class Writer:
    """Make the commits of one session, in order, each built on the one before."""

    def __init__(self, session_id: str, epoch: int, now_ms: int = T0) -> None:
        self.head = SessionHead(session_id, epoch)
        self.now_ms = now_ms
        self.created = False

    @classmethod
    def of(cls, head: SessionHead) -> "Writer":
        """Continue from a head that a store returned."""
        writer = cls(head.id, head.epoch, max(head.last_activity_at, T0))
        writer.head = head.copy()
        writer.created = True
        return writer

    def commit(self, *events: dict[str, Any], note: str | None = None, **options: Any) -> Commit:
        """Return the next commit; for a new session it creates the session."""
        create = not self.created
        drafts = list(events)
        if create and (not drafts or drafts[0]["type"] != "session_created"):
            drafts.insert(0, {"type": "session_created", "user_id": "u", "title": None})
        self.created = True
        first = self.head.seq + 1
        made: list[Event] = []
        only_deltas = True
        for draft in drafts:
            seq = self.head.seq + 1
            event = {"type": draft["type"], "seq": seq, "time": format_ms(self.now_ms), **draft}
            fold(self.head, event)
            only_deltas = only_deltas and event["type"] in DELTA_TYPES
            made.append(Event(seq, event["type"], codec.encode(event)))
        return Commit(
            session_id=self.head.id,
            epoch=self.head.epoch,
            first_seq=first,
            events=made,
            notes=[] if note is None else [note_of(self.head.seq, note, self.now_ms)],
            head=None if only_deltas and drafts else self.head.copy(),
            time_ms=self.now_ms,
            create=create,
            **options,
        )


def note_of(seq: int, key: str, now_ms: int = T0) -> Note:
    """Return a note made by the code that makes the notes of real sessions.

    `key` takes the place of the digest of an idempotency key.
    """
    kept = RequestKey(key, "body digest").note({"status": "done"}, now_ms)
    return Note(seq, kept.key, kept.body)


def entries_of(commit: Commit) -> tuple[Sequence[Event], Sequence[Note]]:
    """Return the arguments of `SessionCreation.write` for a commit."""
    return commit.events, commit.notes


def bodies_of(*commits: Commit) -> list[bytes]:
    """Return the bodies of the commits' events."""
    return [event.body for commit in commits for event in commit.events]


def size_of(*commits: Commit) -> int:
    """Return the bytes of all bodies of the commits: the least size of their log."""
    notes = [note.body for commit in commits for note in commit.notes]
    return sum(map(len, (*bodies_of(*commits), *notes)))


def marks_of(*commits: Commit) -> list[tuple[MarkKind, str, int]]:
    """Return the kind, key and seq of each mark of the commits, in log order."""
    marks: list[tuple[MarkKind, str, int]] = []
    for commit in commits:
        for seq, kind, body in commit.events:
            if kind == "message":
                marks.append(("message", codec.decode(body)["message"]["id"], seq))
            elif kind in TERMINAL_TYPES | {"run_start", "run_queued"}:
                marks.append(("run", codec.decode(body)["run_id"], seq))
        marks += [("note", note.key, note.seq) for note in commit.notes]
    return marks


def token(text: str = "x") -> dict[str, Any]:
    return {"type": "token", "content": text}


def message(message_id: str, text: str = "hello") -> dict[str, Any]:
    return {
        "type": "message",
        "message": {
            "id": message_id,
            "role": "user",
            "content": text,
            "created_at": format_ms(T0),
            "status": "complete",
            "metadata": {},
        },
    }


def run_start(run_id: str) -> dict[str, Any]:
    return {"type": "run_start", "run_id": run_id, "agent": "default", "message_ids": []}


def complete(run_id: str) -> dict[str, Any]:
    return {"type": "complete", "run_id": run_id, "finish_reason": "stop"}


def append(store: SessionStore, commit: Commit) -> "asyncio.Future[BambooError | None]":
    """Give the commit to the store; return a future for its answer."""
    answer: asyncio.Future[BambooError | None] = asyncio.get_running_loop().create_future()

    def done(error: BambooError | None) -> None:
        if not answer.cancelled():
            answer.set_result(error)

    store.append(commit, done)
    assert not answer.done(), "the answer came from within the call"
    return answer


async def committed(store: SessionStore, commit: Commit) -> None:
    """Append a commit; raise the store's error."""
    error = await answer_to(append(store, commit))
    if error is not None:
        raise error


async def answer_to(answer: "asyncio.Future[BambooError | None]") -> BambooError | None:
    with anyio.fail_after(DEADLINE_SECONDS):
        return await answer


async def everything(store: SessionStore, session_id: str) -> list[Record]:
    """Read the whole log in pages, as a reader does."""
    head = await store.load(session_id)
    assert head is not None
    found: list[Record] = []
    after = 0
    while page := await store.read(session_id, head.epoch, after, limit=100, max_bytes=1 << 20):
        found += page
        after = page[-1].seq
    return found


async def seqs(store: SessionStore, session_id: str) -> list[int]:
    return [record.seq for record in await everything(store, session_id)]
