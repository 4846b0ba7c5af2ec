"""Idempotency keys: the answer to a keyed request is kept in the commit that did the work.

So a repeat after a crash gets the first answer exactly when the first request took effect. Keys are
kept as notes in the session's log, under a digest of caller, route and key; the newest of a session
count, `idempotency_keys_max` of them and `idempotency_bytes_max` together, for 24 hours. Memory
keeps a few hundred bytes of each, by which a repeat is known; its answer, which may be as large as
what was sent, is read from the log.
"""

import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple

from anyio import Lock
from anyio.lowlevel import checkpoint

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.codec import decode, encode
from bamboo_gateway.domain.errors import IdempotencyKeyReused, StorageFailed
from bamboo_gateway.domain.limits import IDEMPOTENCY_RETENTION_MS
from bamboo_gateway.sessions.commands import Idempotency
from bamboo_gateway.storage.base import SessionStore


class KeptNote(NamedTuple):
    """What the log keeps for a key: its digest, and the body of the note."""

    key: str
    body: bytes


def key_digest(caller: Caller, idem: Idempotency) -> str:
    """Names a key in the log without showing it."""
    return sha256("\0".join((caller.id, idem.route, idem.key)).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """What the log keeps for one key. `lines` and `chain` are those of a streamed request."""

    body: str
    answer: dict[str, Any]
    time_ms: int
    lines: int = 0
    chain: str = ""

    def note(self, digest: str) -> KeptNote:
        """Return the note that the log keeps: no event, and shown to nobody."""
        shape: dict[str, Any] = {
            "note": "idempotency",
            "key": digest,
            "time": self.time_ms,
            "body": self.body,
            "answer": self.answer,
        }
        if self.lines:
            shape |= {"lines": self.lines, "chain": self.chain}
        return KeptNote(digest, encode(shape))


async def read_answer(store: SessionStore, session_id: str, epoch: int, digest: str) -> KeptAnswer:
    """Reads the answer that is kept for a key.

    Raises:
        StorageFailed: It is not in the log any more, or cannot be read.
        Conflict: No such session of that epoch.
    """
    found = await store.find(session_id, epoch, "note", key=digest, limit=1, reverse=True)
    if not found:
        # What it answered is done, so the request is not taken for a new one.
        raise StorageFailed("The first answer to this Idempotency-Key cannot be read; try again.")
    note = decode(found[0].body)
    return KeptAnswer(
        note["body"], note["answer"], note["time"], note.get("lines", 0), note.get("chain", "")
    )


class KeptKey(NamedTuple):
    """What memory keeps of a key: enough to know a repeat. The answer is read from the log.

    `size` is what the note takes.
    """

    body: str
    time_ms: int
    size: int


class KeyCount:
    """How many keys the ledgers of all sessions have in memory."""

    __slots__ = ("keys",)

    def __init__(self) -> None:
        self.keys = 0


_NOTES_PER_KEY = 16
"""A long streamed request may push out keys beyond this; what it costs to look stays bounded."""

_NOTES_AT_FIRST = 16
"""Notes asked for at first, then four times as many each time: one may hold an answer of megabytes,
and what the bounds leave out need not be read."""

_NOTES_AT_ONCE = 500
"""Notes looked at before others are served (R12): a few ms."""

# What precedes the answer, which may have many MB, in its note; digests have no escapes.
_NOTE_START = re.compile(
    rb'\{"note":"idempotency","key":"([^"\\]*)","time":([0-9]+),"body":"([^"\\]*)","answer":'
)


class KeyLedger:
    """The keys of one session that have an answer, loaded from its log when first asked for.

    The newest is kept however large its answer is: a client that repeats its last request gets it.
    """

    def __init__(self, keys_max: int, bytes_max: int, count: KeyCount) -> None:
        self._max = keys_max
        self._bytes_max = bytes_max
        self._count = count
        self._bytes = 0
        self._kept: OrderedDict[str, KeptKey] | None = None
        self._forgotten = 0
        self._loading = Lock()

    def forget(self) -> None:
        """Drops what is in memory; the log has all of it, for nothing is in flight."""
        self._count.keys -= len(self._kept or ())
        self._kept = None
        self._forgotten += 1

    @property
    def is_loaded(self) -> bool:
        """Whether `get` can be asked."""
        return self._kept is not None

    async def load(self, store: SessionStore, session_id: str, epoch: int) -> None:
        """Reads the newest notes of the log.

        A streamed request leaves one with each commit, all of one key: so more are looked at than
        there may be keys, up to `_NOTES_PER_KEY` times as many.
        """
        async with self._loading:
            # One at a time: an older answer of the store would hide what was put since.
            while self._kept is None:
                forgotten = self._forgotten
                kept = await self._read(store, session_id, epoch)
                if forgotten == self._forgotten:
                    self._kept = kept
                    self._bytes = sum(known.size for known in kept.values())
                    self._count.keys += len(kept)

    async def _read(
        self, store: SessionStore, session_id: str, epoch: int
    ) -> OrderedDict[str, KeptKey]:
        limit = min(self._max, _NOTES_AT_FIRST)
        while True:
            found = await store.find(
                session_id, epoch, "note", limit=limit, max_bytes=self._bytes_max, reverse=True
            )
            newest: dict[str, KeptKey] = {}
            size, is_full = 0, False
            for number, record in enumerate(found):
                if number % _NOTES_AT_ONCE == _NOTES_AT_ONCE - 1:
                    await checkpoint()
                digest, known = _key_of(record.body)
                if digest in newest:
                    continue
                size += known.size
                is_full = len(newest) == self._max or (size > self._bytes_max and bool(newest))
                if is_full:
                    break
                newest[digest] = known
            enough = is_full or len(newest) == self._max or len(found) < limit
            if enough or limit >= self._max * _NOTES_PER_KEY:
                return OrderedDict(reversed(newest.items()))
            limit *= 4

    def start_empty(self) -> None:
        """For a session that is just being created."""
        self.forget()
        self._kept = OrderedDict()
        self._bytes = 0

    def get(self, digest: str, now_ms: int) -> KeptKey | None:
        """Gives what is known of a key, while its answer is young enough."""
        assert self._kept is not None  # callers load first
        known = self._kept.get(digest)
        if known is None or now_ms - known.time_ms > IDEMPOTENCY_RETENTION_MS:
            return None
        return known

    def put(self, digest: str, kept: KeptAnswer) -> tuple[KeptNote, Callable[[], None]]:
        """Remembers a key that is being answered.

        Returns:
            The note for its commit, and what takes it back when the commit was refused.
        """
        assert self._kept is not None  # callers load first
        note = kept.note(digest)
        known, former = KeptKey(kept.body, kept.time_ms, len(note.body)), self._kept.get(digest)
        self._set(digest, known)
        while len(self._kept) > self._max or (
            self._bytes > self._bytes_max and len(self._kept) > 1
        ):
            self._remove(next(iter(self._kept)))

        def take_back() -> None:
            # Only this one: others may be in flight still, or all was read again.
            if self._kept is not None and self._kept.get(digest) is known:
                self._remove(digest)
                if former is not None:
                    self._set(digest, former)

        return note, take_back

    def _set(self, digest: str, known: KeptKey) -> None:
        assert self._kept is not None
        self._remove(digest)
        self._kept[digest] = known
        self._bytes += known.size
        self._count.keys += 1

    def _remove(self, digest: str) -> None:
        assert self._kept is not None
        former = self._kept.pop(digest, None)
        if former is not None:
            self._bytes -= former.size
            self._count.keys -= 1


def _key_of(body: bytes) -> tuple[str, KeptKey]:
    """Reads a note's key, and what memory keeps of it."""
    if start := _NOTE_START.match(body):
        return start[1].decode(), KeptKey(start[3].decode(), int(start[2]), len(body))
    note = decode(body)
    return note["key"], KeptKey(note["body"], note["time"], len(body))


def check_same_body(known: KeptKey, idem: Idempotency) -> None:
    """Refuses a key that was used for something else.

    Raises:
        IdempotencyKeyReused: The bodies differ.
    """
    if known.body != idem.body_digest:
        raise IdempotencyKeyReused(
            "This Idempotency-Key was used before with another body; use a new key."
        )
