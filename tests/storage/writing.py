"""What stands in for a live session in storage tests: makes commits, waits for their answers."""

import asyncio
from typing import Any

import anyio

from bamboo_gateway.domain import codec
from bamboo_gateway.domain.clock import format_ms
from bamboo_gateway.domain.errors import BambooError
from bamboo_gateway.domain.events import DELTA_TYPES, TERMINAL_TYPES
from bamboo_gateway.domain.projections import fold
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.sessions.idempotency import KeptAnswer, note_line
from bamboo_gateway.storage.base import Commit, Mark, Record, SessionStore

# Patience with a slow machine: it costs nothing where all goes well.
DEADLINE_SECONDS = 60
T0 = 1_763_661_234_567


class StepClock:
    """A clock that stands still until it is told otherwise."""

    def __init__(self, now_ms: int = T0) -> None:
        self.ms = now_ms

    def now_ms(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return self.ms / 1000


class Writer:
    """Makes the commits of one session, in order, each built on the one before."""

    def __init__(self, session_id: str, epoch: int, now_ms: int = T0) -> None:
        self.head = SessionHead(session_id, epoch)
        self.now_ms = now_ms
        self.created = False

    @classmethod
    def of(cls, head: SessionHead) -> "Writer":
        """Goes on from a head that a store gave."""
        writer = cls(head.id, head.epoch, max(head.last_activity_at, T0))
        writer.head = head.copy()
        writer.created = True
        return writer

    def commit(self, *events: dict[str, Any], note: str | None = None, **options: Any) -> Commit:
        """Gives the next commit; with no events and the session new, creates it."""
        create = not self.created
        drafts = list(events)
        if create and (not drafts or drafts[0]["type"] != "session_created"):
            drafts.insert(0, {"type": "session_created", "user_id": "u", "title": None})
        self.created = True
        first = self.head.seq + 1
        parts: list[bytes] = []
        marks: list[Mark] = []
        offset = 0
        only_deltas = True
        for draft in drafts:
            seq = self.head.seq + 1
            event = {"type": draft["type"], "seq": seq, "time": format_ms(self.now_ms), **draft}
            fold(self.head, event)
            only_deltas = only_deltas and event["type"] in DELTA_TYPES
            if event["type"] == "message":
                marks.append(Mark("message", event["message"]["id"], seq, offset))
            elif event["type"] in TERMINAL_TYPES | {"run_start", "run_queued"}:
                marks.append(Mark("run", event["run_id"], seq, offset))
            parts.append(codec.to_line(codec.encode(event)))
            offset += len(parts[-1])
        if note is not None:
            marks.append(Mark("note", note, self.head.seq, offset))
            parts.append(stored_note(note, self.now_ms))
        return Commit(
            session_id=self.head.id,
            epoch=self.head.epoch,
            first_seq=first,
            count=len(drafts),
            data=b"".join(parts),
            marks=marks,
            head=None if only_deltas and drafts else self.head.copy(),
            time_ms=self.now_ms,
            create=create,
            **options,
        )


def stored_note(key: str, now_ms: int = T0) -> bytes:
    """Return a note's stored line, made by the code that makes the notes of real sessions.

    `key` stands for the digest of an idempotency key.
    """
    return note_line(key, now_ms, KeptAnswer("body digest", {"status": "done"}, now_ms).record())


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
    """Gives the commit to the store; the future is its answer."""
    answer: asyncio.Future[BambooError | None] = asyncio.get_running_loop().create_future()

    def done(error: BambooError | None) -> None:
        if not answer.cancelled():
            answer.set_result(error)

    store.append(commit, done)
    assert not answer.done(), "the answer came from within the call"
    return answer


async def committed(store: SessionStore, commit: Commit) -> None:
    """Appends and raises what the store answers."""
    error = await answer_to(append(store, commit))
    if error is not None:
        raise error


async def answer_to(answer: "asyncio.Future[BambooError | None]") -> BambooError | None:
    with anyio.fail_after(DEADLINE_SECONDS):
        return await answer


async def everything(store: SessionStore, session_id: str) -> list[Record]:
    """Reads the whole log in pages, as a reader would."""
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
