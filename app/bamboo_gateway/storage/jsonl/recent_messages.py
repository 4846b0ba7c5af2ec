"""The last messages of logs, in memory: a page at the end of a log then needs no thread.

A chat reads the end of its conversation, and a client that shows one does too. Commits and reads
add to it. It has durable messages only, and only of the epoch and the files that the catalog entry
is of (R1, R3): a file swap, a repair or a deletion ends what it has of a log.
"""

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterable
from operator import attrgetter

from bamboo_gateway.domain.limits import KiB, MiB
from bamboo_gateway.storage.commits import Event, Found, Record
from bamboo_gateway.storage.jsonl.index.catalog import Entry
from bamboo_gateway.storage.jsonl.mark_search import Search

# Enough for the last pages of some thousand conversations; less than one page of 4 MiB costs.
_BYTES_MAX = 8 * MiB
# The most of one log, so that a few long conversations leave room for the others.
_LOG_BYTES_MAX = 64 * KiB
# What Python's objects take beside the bodies.
_RECORD_BYTES = 128
_TAIL_BYTES = 512

_seq_of = attrgetter("seq")


class _Tail:
    """The last messages of one log.

    Attributes:
        entry: The catalog entry of the log.
        generation: The generation of the entry's files.
        floor: Every message above this seq is in `records`.
        older_above: At least one message is above this seq and not above `floor`; -1 when none is
            known.
        records: The messages, oldest first.
        bytes: The memory that they take.
    """

    __slots__ = ("bytes", "entry", "floor", "generation", "older_above", "records")

    def __init__(self, entry: Entry, floor: int) -> None:
        self.entry = entry
        self.generation = entry.generation
        self.floor = floor
        self.older_above = -1
        self.records: list[Record] = []
        self.bytes = _TAIL_BYTES

    def put(self, records: list[Record], *, at: int) -> None:
        """Insert messages, and drop the oldest ones beyond the limit."""
        self.records[at:at] = records
        self.bytes += sum(_RECORD_BYTES + len(record.body) for record in records)
        dropped = 0
        while self.bytes > _LOG_BYTES_MAX and dropped < len(self.records):
            self.floor = self.records[dropped].seq
            self.older_above = self.floor - 1
            self.bytes -= _RECORD_BYTES + len(self.records[dropped].body)
            dropped += 1
        del self.records[:dropped]


class RecentMessages:
    """The last messages of the logs in use; all methods are called on the loop's thread.

    Attributes:
        bytes: The memory that they take.
    """

    def __init__(self) -> None:
        self.bytes = 0
        # The log used longest ago is the first.
        self._tails: OrderedDict[str, _Tail] = OrderedDict()

    def find(self, entry: Entry, search: Search) -> Found | None:
        """Find messages as `MarkSearch.find` does; None when that has to look into the log."""
        if search.kind != "message" or search.key is not None:
            return None
        tail = self._tail_of(entry)
        if tail is None or (search.after < tail.floor and not search.reverse):
            return None
        records = tail.records
        first = bisect_right(records, search.after, key=_seq_of)
        page = records[first : bisect_left(records, search.before, first, key=_seq_of)]
        if search.reverse:
            page.reverse()
        found = Found()
        left = search.max_bytes
        for record in page:
            if len(found) >= search.limit or (found and len(record.body) > left):
                found.has_more = True
                break
            found.append(record)
            left -= len(record.body)
        if search.after < tail.floor and not found.has_more:
            if len(found) < search.limit or search.after > tail.older_above:
                return None
            found.has_more = True
        self._tails.move_to_end(entry.id)
        return found

    def committed(self, entry: Entry, first_seq: int, events: Iterable[Event]) -> None:
        """Add the messages of a commit that became durable. Its first event has `first_seq`."""
        records = [Record(seq, body) for seq, kind, body in events if kind == "message"]
        if records:
            tail = self._tail_of(entry) or _Tail(entry, first_seq - 1)
            self._put(tail, records, at=len(tail.records))

    def was_read(
        self, entry: Entry, generation: int, seq: int, search: Search, found: Found
    ) -> None:
        """Add what a search found in the log.

        Args:
            entry: The log's catalog entry.
            generation: Its generation when the search began.
            seq: Its seq when the search began.
            search: The search.
            found: What it found.
        """
        if search.kind != "message" or search.key is not None or entry.generation != generation:
            return
        if found.has_more and not search.reverse:
            return  # the later messages are unknown
        # Every message above `floor` and up to `top` is in `found`.
        floor = found[-1].seq - 1 if found.has_more else search.after
        top = min(search.before - 1, seq)
        tail = self._tail_of(entry)
        if tail is None:
            if top < entry.seq:
                return
            tail = _Tail(entry, top)
        if floor <= tail.floor <= top:
            older = [record for record in found if record.seq <= tail.floor]
            tail.floor, tail.older_above = floor, search.after if found.has_more else -1
            self._put(tail, older[::-1] if search.reverse else older, at=0)

    def forget(self, session_id: str) -> None:
        """Drop the messages of a session that was deleted."""
        tail = self._tails.pop(session_id, None)
        if tail is not None:
            self.bytes -= tail.bytes

    def _tail_of(self, entry: Entry) -> _Tail | None:
        tail = self._tails.get(entry.id)
        if tail is not None and (tail.entry is not entry or tail.generation != entry.generation):
            self.forget(entry.id)
            return None
        return tail

    def _put(self, tail: _Tail, records: list[Record], *, at: int) -> None:
        self.forget(tail.entry.id)
        tail.put(records, at=at)
        self._tails[tail.entry.id] = tail
        self.bytes += tail.bytes
        while self.bytes > _BYTES_MAX:
            self.forget(next(iter(self._tails)))
