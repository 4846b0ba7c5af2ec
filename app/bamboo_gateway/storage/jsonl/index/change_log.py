"""Which sessions have changed, by numbers (`SessionStore.changes`).

The number of a change is that of its record in the journal (`lsn`). The committer gives these
numbers one after the other, and its answers come to the loop in the same order. So whenever the
loop runs, it has every change up to the last number that it has. After a crash the records have
the numbers still.

The catalog file keeps the number of each session's last change, and the deletions. Its checkpoint
lines have the name of the feed. Whenever numbers may have been given before for other changes (the
catalog was lost, another gateway wrote it, a power loss took records), recovery begins a new feed.
"""

from collections.abc import Iterable, Mapping
from itertools import islice
from secrets import token_hex
from typing import Any, NamedTuple

from sortedcontainers import SortedDict

from bamboo_gateway.domain import codec
from bamboo_gateway.storage.base import GONE_SESSIONS_MAX, ChangesLost
from bamboo_gateway.storage.reports import GoneSession


class Feed(NamedTuple):
    """What a checkpoint line has of the feed: its name, and the number up to which it forgets."""

    name: str
    forgotten: int

    @staticmethod
    def begin(lsn: int) -> "Feed":
        """Return a new feed, which knows nothing of the changes up to a number."""
        return Feed(token_hex(8), lsn)


class Gone(NamedTuple):
    """A deletion: its number, and what is still known of the session."""

    number: int
    session: GoneSession


class ChangeLog:
    """The changes in memory; used on the loop's thread alone.

    Attributes:
        feed: The feed.
        last: The number of the last change, or a later one.
        unsaved: The deletions that no checkpoint has written yet, by session.
    """

    def __init__(self) -> None:
        self.feed = Feed("", 0)
        self.last = 0
        self.unsaved: dict[str, Gone] = {}
        # By session, in the order of their numbers.
        self._gone: dict[str, Gone] = {}
        self._ids: SortedDict[int, str] = SortedDict()

    def begin(
        self, feed: Feed, last: int, ids: "SortedDict[int, str]", gone: Mapping[str, Gone]
    ) -> None:
        """Take what recovery found.

        Args:
            feed: The feed.
            last: The number of the last record.
            ids: The session of each change (`in_order`).
            gone: The deletions.
        """
        self.feed, self.last, self._ids = feed, last, ids
        self._gone.update(gone)

    def moved(self, session_id: str, before: int, number: int) -> None:
        """Note that a session, whose last change was `before`, has changed."""
        if self._gone:
            former = self._gone.pop(session_id, None)
            if former is not None:
                del self._ids[former.number]
                self.unsaved.pop(session_id, None)
        if before:
            del self._ids[before]
        self._ids[number] = session_id
        if number > self.last:
            self.last = number

    def removed(self, session_id: str, before: int, gone: Gone) -> None:
        """Note that a session, whose last change was `before`, was deleted."""
        self.moved(session_id, before, gone.number)
        self._gone[session_id] = self.unsaved[session_id] = gone
        if len(self._gone) > GONE_SESSIONS_MAX:
            self._forget(next(iter(self._gone)))

    def forget_all(self) -> None:
        """Forget all deletions: they name users that may have been erased."""
        for session_id in list(self._gone):
            self._forget(session_id)

    def _forget(self, session_id: str) -> None:
        gone = self._gone.pop(session_id)
        del self._ids[gone.number]
        self.unsaved.pop(session_id, None)
        self.feed = self.feed._replace(forgotten=max(self.feed.forgotten, gone.number))

    def put_back(self, unsaved: Mapping[str, Gone]) -> None:
        """Have deletions written again that a failed checkpoint took from `unsaved`."""
        still = {name: gone for name, gone in unsaved.items() if self._gone.get(name) == gone}
        self.unsaved = {**still, **self.unsaved}

    def page(self, feed: str, after: int, limit: int) -> list[tuple[int, str, Gone | None]]:
        """Return the changes after a number, at most one more than `limit`.

        Raises:
            ChangesLost: As `SessionStore.changes`.
        """
        if feed != self.feed.name or not self.feed.forgotten <= after <= self.last:
            raise ChangesLost("These changes are not known any more.")
        numbers = islice(self._ids.irange(minimum=after, inclusive=(False, True)), limit + 1)
        ids = ((number, self._ids[number]) for number in numbers)
        return [(number, name, self._gone.get(name)) for number, name in ids]


def in_order(
    numbers: Iterable[tuple[int, str]], gone: Mapping[str, Gone]
) -> "SortedDict[int, str]":
    """Return the sessions by the numbers of their last changes; sessions without one have 0."""
    ids: SortedDict[int, str] = SortedDict(pair for pair in numbers if pair[0])
    ids.update({one.number: name for name, one in gone.items()})
    return ids


def gone_to_json(gone: GoneSession) -> dict[str, Any]:
    """Return a deletion as records and lines have it; without what it does not have."""
    shape: dict[str, Any] = {"type": gone.session_type}
    if gone.user_id is not None:
        shape["user_id"] = gone.user_id
    if gone.parent_id is not None:
        shape["parent_id"] = gone.parent_id
    if gone.shared_with:
        shape["shared_with"] = list(gone.shared_with)
    return shape


def gone_of_json(shape: Mapping[str, Any]) -> GoneSession:
    """Read a deletion."""
    return GoneSession(
        shape.get("user_id"),
        shape["type"],
        shape.get("parent_id"),
        tuple(shape.get("shared_with", ())),
    )


def gone_in_record(data: bytes) -> GoneSession | None:
    """Read the deletion in a journal record; None when an earlier gateway wrote it."""
    try:
        return gone_of_json(codec.decode(data))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
