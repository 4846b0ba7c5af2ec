"""Idempotency keys: the answer to a keyed request is kept in the commit that did the work.

So a repeat after a crash gets the first answer exactly when the first request took effect. Keys are
kept as notes in the session's log, under a digest of caller, route and key; the newest of a session
count, `idempotency_keys_max` of them and `idempotency_bytes_max` together, for 24 hours.
"""

from collections import OrderedDict
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from anyio import Lock
from anyio.lowlevel import checkpoint

from app.domain.callers import Caller
from app.domain.codec import decode, encode, to_line
from app.domain.errors import IdempotencyKeyReused
from app.domain.limits import IDEMPOTENCY_RETENTION_MS
from app.sessions.commands import Idempotency
from app.storage.base import SessionStore


def key_digest(caller: Caller, idem: Idempotency) -> str:
    """Names a key in the log without showing it."""
    return sha256("\0".join((caller.id, idem.route, idem.key)).encode()).hexdigest()[:32]


def note_line(digest: str, now_ms: int, record: dict[str, Any]) -> bytes:
    """Gives the stored line of a note: no event, and shown to nobody."""
    return to_line(_note_body(digest, now_ms, record))


def _note_body(digest: str, now_ms: int, record: dict[str, Any]) -> bytes:
    return encode({"note": "idempotency", "key": digest, "time": now_ms, **record})


@dataclass(slots=True)
class KeptAnswer:
    """What is kept for one key. `lines` and `chain` are those of a streamed request.

    `size` is what it takes encoded, once it is in a ledger.
    """

    body: str
    answer: dict[str, Any]
    time_ms: int
    lines: int = 0
    chain: str = ""
    size: int = 0

    def record(self) -> dict[str, Any]:
        """Gives what the note in the log holds beside its key and time."""
        shape: dict[str, Any] = {"body": self.body, "answer": self.answer}
        if self.lines:
            shape |= {"lines": self.lines, "chain": self.chain}
        return shape


_NOTES_PER_KEY = 16
"""A long streamed request may push out keys beyond this; what it costs to look stays bounded."""

_NOTES_AT_FIRST = 16
"""Notes asked for at first, then four times as many each time: one may hold an answer of megabytes,
and what the bounds leave out need not be read."""

_NOTES_AT_ONCE = 500
"""Notes decoded before others are served (R12): a few ms."""


class KeyLedger:
    """The kept answers of one session, loaded from its log when first asked for.

    The newest is kept however large it is: a client that repeats its last request gets its answer.
    """

    def __init__(self, keys_max: int, bytes_max: int) -> None:
        self._max = keys_max
        self._bytes_max = bytes_max
        self._bytes = 0
        self._kept: OrderedDict[str, KeptAnswer] | None = None
        self._forgotten = 0
        self._loading = Lock()

    def forget(self) -> None:
        """Drops what is in memory; the log has all of it, for nothing is in flight."""
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
                    self._bytes = sum(answer.size for answer in kept.values())

    async def _read(
        self, store: SessionStore, session_id: str, epoch: int
    ) -> OrderedDict[str, KeptAnswer]:
        limit = min(self._max, _NOTES_AT_FIRST)
        while True:
            found = await store.find(
                session_id, epoch, "note", limit=limit, max_bytes=self._bytes_max, reverse=True
            )
            newest: dict[str, KeptAnswer] = {}
            size, is_full = 0, False
            for number, record in enumerate(found):
                if number % _NOTES_AT_ONCE == _NOTES_AT_ONCE - 1:
                    await checkpoint()
                note = decode(record.body)
                if note["key"] in newest:
                    continue
                size += len(record.body)
                is_full = len(newest) == self._max or (size > self._bytes_max and bool(newest))
                if is_full:
                    break
                newest[note["key"]] = _kept_answer(note, len(record.body))
            enough = is_full or len(newest) == self._max or len(found) < limit
            if enough or limit >= self._max * _NOTES_PER_KEY:
                return OrderedDict(reversed(newest.items()))
            limit *= 4

    def start_empty(self) -> None:
        """For a session that is just being created."""
        self._kept = OrderedDict()
        self._bytes = 0

    def get(self, digest: str, now_ms: int) -> KeptAnswer | None:
        """Gives what is kept for a key, while it is young enough."""
        assert self._kept is not None  # callers load first
        kept = self._kept.get(digest)
        if kept is None or now_ms - kept.time_ms > IDEMPOTENCY_RETENTION_MS:
            return None
        return kept

    def put(self, digest: str, kept: KeptAnswer) -> tuple[str, dict[str, Any]]:
        """Keeps an answer; gives the note for its commit."""
        assert self._kept is not None
        record = kept.record()
        kept.size = len(_note_body(digest, kept.time_ms, record))
        self._remove(digest)
        self._kept[digest] = kept
        self._bytes += kept.size
        while len(self._kept) > self._max or (
            self._bytes > self._bytes_max and len(self._kept) > 1
        ):
            self._remove(next(iter(self._kept)))
        return digest, record

    def take_back(self, digest: str, kept: KeptAnswer, before: KeptAnswer | None = None) -> None:
        """Undoes one `put` whose commit was refused; others may be in flight still."""
        if self._kept is not None and self._kept.get(digest) is kept:
            self._remove(digest)
            if before is not None:
                self._kept[digest] = before
                self._bytes += before.size

    def _remove(self, digest: str) -> None:
        assert self._kept is not None
        former = self._kept.pop(digest, None)
        if former is not None:
            self._bytes -= former.size


def _kept_answer(note: dict[str, Any], size: int) -> KeptAnswer:
    return KeptAnswer(
        note["body"],
        note["answer"],
        note["time"],
        note.get("lines", 0),
        note.get("chain", ""),
        size,
    )


def check_same_body(kept: KeptAnswer, idem: Idempotency) -> None:
    """Refuses a key that was used for something else.

    Raises:
        IdempotencyKeyReused: The bodies differ.
    """
    if kept.body != idem.body_digest:
        raise IdempotencyKeyReused(
            "This Idempotency-Key was used before with another body; use a new key."
        )
