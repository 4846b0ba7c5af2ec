"""Paths: the messages from the first one to the tip of a branch.

The log is one line, and messages form a tree. While a branch is current, every new message belongs
to it. So the messages of a branch are a few spans of the log, and a path is the spans of its
branches, each up to the message where the next one begins. A session without further branches has
one path with one span.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from bamboo_gateway.domain.sessions import MAIN_BRANCH, OPEN_SPAN, Branch, SessionHead

BRANCH_SPANS_MAX: Final = 2000
"""The most spans of a session. A head holds all of them: some 20 bytes each."""

Span = tuple[int, int]
"""A part of the log: behind the first seq, up to the second."""


@dataclass(frozen=True, slots=True)
class Path:
    """A path through a log: message events outside of `spans` are not part of it.

    The spans ascend, and none is empty. They may hold events of any type.
    """

    spans: tuple[Span, ...]

    def __contains__(self, seq: int) -> bool:
        at = bisect_left(self.spans, seq, key=lambda span: span[1])
        return at < len(self.spans) and self.spans[at][0] < seq

    def between(self, after: int, before: int) -> list[Span]:
        """Return the parts of the spans with `after < seq < before`."""
        parts = ((max(first, after), min(last, before - 1)) for first, last in self.spans)
        return [(first, last) for first, last in parts if first < last]

    def is_whole(self, after: int, before: int) -> bool:
        """Return whether everything with `after < seq < before` is in one span."""
        return any(first <= after and before <= last + 1 for first, last in self.spans)


def path_of(head: SessionHead, branch_id: str | None = None) -> Path:
    """Return the path to the tip of a branch; None means the current one.

    Raises:
        KeyError: There is no such branch.
    """
    wanted = branch_id or head.branch_id
    if not head.branches:
        if wanted != MAIN_BRANCH:
            raise KeyError(wanted)
        return every_path(head)
    by_id = {branch.id: branch for branch in head.branches}
    return Path(tuple(_spans_to(by_id[wanted], by_id, head.seq))[::-1])


def every_path(head: SessionHead) -> Path:
    """Return all messages of all branches, as if they were one path."""
    return Path(((head.history_from, head.seq),) if head.history_from < head.seq else ())


def _spans_to(branch: Branch, by_id: dict[str, Branch], end: int) -> Iterator[Span]:
    """Yield the spans of a path, the last one first."""
    while True:
        for first, last in reversed(branch.spans):
            upto = end if last == OPEN_SPAN else min(last, end)
            if first < upto:
                yield first, upto
        if branch.parent_id is None:
            return
        end = min(end, branch.from_seq)
        branch = by_id[branch.parent_id]


def owner_of(head: SessionHead, seq: int) -> str | None:
    """Return the branch that a message event belongs to; None for one that counts no more."""
    if not head.branches:
        return MAIN_BRANCH if head.history_from < seq <= head.seq else None
    for branch in head.branches:
        for first, last in branch.spans:
            if first < seq and (last == OPEN_SPAN or seq <= last):
                return branch.id
    return None


def branch_of(head: SessionHead, branch_id: str) -> Branch | None:
    """Return a branch, or None. That of a session without further branches is made up."""
    if not head.branches and branch_id == MAIN_BRANCH:
        return Branch(MAIN_BRANCH, head.created_at)
    return next((one for one in head.branches if one.id == branch_id), None)


def branches_of(head: SessionHead) -> Sequence[Branch]:
    """Return all branches in the order in which they began."""
    return head.branches or (Branch(MAIN_BRANCH, head.created_at),)


def span_count(head: SessionHead) -> int:
    """Return how many spans the branches have."""
    return sum(len(branch.spans) for branch in head.branches)
