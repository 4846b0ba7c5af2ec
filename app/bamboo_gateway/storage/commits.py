"""The entries of a session's log: as a commit brings them, and as reads find them."""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from bamboo_gateway.domain.sessions import SessionHead

MarkKind = Literal["message", "run", "note", "input"]


class Event(NamedTuple):
    """An event on its way into the log.

    A tuple, since one is made for every event that is streamed.

    Attributes:
        seq: The place of the event in the log.
        type: The type of the event, as in the body.
        body: The event as a JSON object; `type` is the first member, `seq` the second.
    """

    seq: int
    type: str
    body: bytes


class Note(NamedTuple):
    """A note on its way into the log.

    Attributes:
        seq: The seq of the event before the note; 0 before the first event.
        key: The key that the note is found by; also `key` in the body.
        body: The note as a JSON object; `note` is the first member, `key` the second.
    """

    seq: int
    key: str
    body: bytes


class Record(NamedTuple):
    """An entry of a log: an event, or a note with the seq of the event before it."""

    seq: int
    body: bytes

    @property
    def type(self) -> str:
        """The event's type, read without decoding the body: it is the first member."""
        return self.body[9 : self.body.index(b'"', 9)].decode()


class Found(list[Record]):
    """The result of one `SessionStore.find`.

    Attributes:
        has_more: Whether a search beyond the last of these may find more. False is certain. After
            True a further search may still find nothing. An empty result always has False.
    """

    __slots__ = ("has_more",)

    def __init__(self, records: Iterable[Record] = (), *, has_more: bool = False) -> None:
        super().__init__(records)
        self.has_more = has_more


class Commit(NamedTuple):
    """Events (and notes) of one session that become durable together.

    A tuple, since one is made, carried and taken apart for every event that is streamed.

    Attributes:
        session_id: The session whose log is appended to.
        epoch: The epoch that the log must have.
        first_seq: The seq of the first event; the head must be `first_seq - 1`. With `create` it
            is 1.
        events: The events, with consecutive seqs; none when the commit has only notes.
        notes: The notes, in their order.
        head: The session's head after the commit. None when only `seq` and `last_activity_at`
            have moved (the commit has nothing but deltas). The store owns the head from here.
        time_ms: The time of the events; `last_activity_at` moves to it.
        create: The session must not exist; its log begins with this commit and has `epoch`.
        reserve: Whether the commit may use the space kept back for endings when the disk is full.
        version: The version that the session must have, where several processes share the store;
            None when the caller does not know it. Epoch and seq are compared in any case.
        executor: This process, when the commit begins a run that it executes. Nothing is stored
            when the others have taken the process for dead.
        closes: The dead process whose run the commit ends. Nothing is stored when it lives after
            all.
    """

    session_id: str
    epoch: int
    first_seq: int
    events: Sequence[Event]
    notes: Sequence[Note] = ()
    head: SessionHead | None = None
    time_ms: int = 0
    create: bool = False
    reserve: bool = False
    version: int | None = None
    executor: str | None = None
    closes: str | None = None
