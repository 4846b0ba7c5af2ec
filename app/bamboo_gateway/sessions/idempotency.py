"""Idempotency keys: the commit that does the work also keeps the answer.

So a repeat after a crash gets the first answer exactly when the first request took effect. The log
keeps an answer as a note, under a digest of caller, route and key. A session remembers its newest
keys for 24 hours: at most `idempotency_keys_max`, with at most `idempotency_bytes_max` of answers.
Memory keeps a few hundred bytes of each key, which is enough to recognise a repeat. The answer,
which may be as large as the request was, is read from the log.
"""

import re
from asyncio import Lock
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple

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


class RequestKey(NamedTuple):
    """The idempotency key of one request.

    Attributes:
        digest: Names the key in the log without revealing it.
        body: The digest of the request's body; a repeat has the same.
    """

    digest: str
    body: str

    def note(
        self, answer: Mapping[str, Any], now_ms: int, lines: int = 0, chain: str = ""
    ) -> KeptNote:
        """Return the note that keeps an answer (`KeptAnswer` names what is in it).

        It is no event, and clients never see it.
        """
        shape: dict[str, Any] = {
            "note": "idempotency",
            "key": self.digest,
            "time": now_ms,
            "body": self.body,
            "answer": answer,
        }
        if lines:
            shape |= {"lines": lines, "chain": chain}
        return KeptNote(self.digest, encode(shape))


def request_key(caller: Caller, idem: Idempotency | None) -> RequestKey | None:
    """Return the key of a caller's request, if it has one."""
    if idem is None:
        return None
    named = "\0".join((caller.id, idem.route, idem.key))
    return RequestKey(sha256(named.encode()).hexdigest()[:32], idem.body_digest)


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """What the log keeps for one key.

    Attributes:
        body: The digest of the request's body.
        answer: The answer.
        time_ms: When the request was answered.
        lines: How many lines of a streamed request are stored.
        chain: A chained digest of those lines.
    """

    body: str
    answer: dict[str, Any]
    time_ms: int
    lines: int = 0
    chain: str = ""


async def read_answer(store: SessionStore, session_id: str, epoch: int, digest: str) -> KeptAnswer:
    """Read the answer that the log keeps for a key.

    Raises:
        StorageFailed: The answer is no longer in the log, or cannot be read.
        Conflict: There is no session of that id and epoch.
    """
    found = await store.find(session_id, epoch, "note", key=digest, limit=1, reverse=True)
    if not found:
        # The work is done, so the request must not be taken for a new one.
        raise StorageFailed("The first answer to this Idempotency-Key cannot be read; try again.")
    note = decode(found[0].body)
    return KeptAnswer(
        note["body"], note["answer"], note["time"], note.get("lines", 0), note.get("chain", "")
    )


class KeptKey(NamedTuple):
    """What memory keeps of a key: enough to recognise a repeat. The answer is read from the log.

    `size` is the size of the note in bytes.
    """

    body: str
    time_ms: int
    size: int


class KeyCount:
    """Counts the keys that the ledgers of all sessions have in memory."""

    __slots__ = ("keys",)

    def __init__(self) -> None:
        self.keys = 0


_NOTES_PER_KEY = 16
"""Notes to look at for each key that may be kept: a streamed request leaves many. The load does not
find keys beyond this bound, so its cost stays bounded."""

_NOTES_AT_FIRST = 16
"""Notes to read at first, then four times as many each time: one may hold an answer of megabytes,
and notes beyond the bounds need not be read."""

_NOTES_AT_ONCE = 500
"""Notes to look at before yielding to the event loop (R12): a few ms."""

_KEPT_BODY = b'{"note":"idempotency",'
"""What a note for a key begins with."""

# What precedes the answer, which may have many MB, in its note; digests have no escapes.
_NOTE_START = re.compile(
    rb'\{"note":"idempotency","key":"([^"\\]*)","time":([0-9]+),"body":"([^"\\]*)","answer":'
)


class KeyLedger:
    """The keys of one session that have an answer, loaded from its log at the first look-up.

    The newest key is kept however large its answer is, so that a client that repeats its last
    request gets the answer.
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
        """Drop what is in memory, while no commit is in flight: then the log has all of it."""
        self._count.keys -= len(self._kept or ())
        self._kept = None
        self._forgotten += 1

    @property
    def is_loaded(self) -> bool:
        """Whether `get` may be called."""
        return self._kept is not None

    async def load(self, store: SessionStore, session_id: str, epoch: int) -> None:
        """Read the newest notes of the log.

        A streamed request leaves a note with each commit, all for one key. So this looks at more
        notes than there may be keys, up to `_NOTES_PER_KEY` times as many.
        """
        async with self._loading:
            # One read at a time: an older result would hide keys that were put since.
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
                if not record.body.startswith(_KEPT_BODY):
                    continue  # a wish
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
        """Begin without keys, for a session that is being created."""
        self.forget()
        self._kept = OrderedDict()
        self._bytes = 0

    def get(self, digest: str, now_ms: int) -> KeptKey | None:
        """Return what memory keeps of a key, unless its answer is older than 24 hours."""
        assert self._kept is not None  # callers load first
        known = self._kept.get(digest)
        if known is None or now_ms - known.time_ms > IDEMPOTENCY_RETENTION_MS:
            return None
        return known

    def put(self, note: KeptNote) -> Callable[[], None]:
        """Remember a key whose note is being stored.

        Returns:
            A callback that takes the key back when the commit failed.
        """
        assert self._kept is not None  # callers load first
        digest, known = _key_of(note.body)
        former = self._kept.get(digest)
        self._set(digest, known)
        while len(self._kept) > self._max or (
            self._bytes > self._bytes_max and len(self._kept) > 1
        ):
            self._remove(next(iter(self._kept)))

        def take_back() -> None:
            # Only this entry: others may still be in flight, or all may have been read again.
            if self._kept is not None and self._kept.get(digest) is known:
                self._remove(digest)
                if former is not None:
                    self._set(digest, former)

        return take_back

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
    """Return a note's key, and what memory keeps of it."""
    if start := _NOTE_START.match(body):
        return start[1].decode(), KeptKey(start[3].decode(), int(start[2]), len(body))
    note = decode(body)
    return note["key"], KeptKey(note["body"], note["time"], len(body))


def check_same_body(known: KeptKey, key: RequestKey) -> None:
    """Refuse a key that was used for another request.

    Raises:
        IdempotencyKeyReused: The bodies differ.
    """
    if known.body != key.body:
        raise IdempotencyKeyReused(
            "This Idempotency-Key was used before with another body. Use a new key."
        )
