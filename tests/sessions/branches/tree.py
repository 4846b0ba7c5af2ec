"""A plain tree of messages in memory: what branches of a session are, without logs and heads."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Said:
    """A message of the tree."""

    id: str
    parent: "Said | None"
    branch: str
    role: str
    text: str
    calls: tuple[str, ...] = ()
    answers: str | None = None
    origin: str = ""
    made: int = 0

    def path(self) -> "list[Said]":
        """Return the messages from the first one to this one."""
        found: list[Said] = []
        one: Said | None = self
        while one is not None:
            found.append(one)
            one = one.parent
        return found[::-1]


@dataclass
class Line:
    """A branch: where it begins and its tip."""

    id: str
    start: Said | None
    tip: Said | None


@dataclass
class Tree:
    """A conversation with branches, as people understand it."""

    lines: dict[str, Line] = field(default_factory=lambda: {"main": Line("main", None, None)})
    current: str = "main"
    said: list[Said] = field(default_factory=list)
    summaries: list[tuple[str, str | None]] = field(default_factory=list)
    """Those that count on some path: text and last message."""

    @property
    def tip(self) -> Said | None:
        return self.lines[self.current].tip

    def path(self, line: str | None = None) -> list[Said]:
        tip = self.lines[line or self.current].tip
        return tip.path() if tip is not None else []

    def waiting(self) -> list[str]:
        """Return the calls at the tip that have no result."""
        answered: set[str | None] = set()
        for one in reversed(self.path()):
            if one.role != "tool":
                return [call for call in one.calls if call not in answered]
            answered.add(one.answers)
        return []

    def add(self, message: dict[str, Any], origin: str = "") -> Said:
        """Add a message at the tip."""
        one = Said(
            message["id"],
            self.tip,
            self.current,
            message["role"],
            message["content"],
            tuple(call["id"] for call in message.get("tool_calls") or ()),
            message.get("tool_call_id"),
            origin or message["id"],
            len(self.said),
        )
        self.said.append(one)
        self.lines[self.current].tip = one
        return one

    def named(self, message_id: str) -> Said:
        return next(one for one in self.said if one.id == message_id)

    def begin(self, name: str, start: Said | None) -> None:
        self.lines[name] = Line(name, start, start)
        self.current = name
        self._forget_summaries()

    def select(self, name: str) -> None:
        self.current = name

    def summarize(self, text: str, last: Said | None) -> None:
        self.summaries.append((text, last.id if last is not None else None))
        self._forget_summaries()

    def summary(self, line: str | None = None) -> tuple[str, str | None] | None:
        """Return the summary of a path: the last one that names a message of it."""
        names = {one.id for one in self.path(line)} | {None}
        return next((one for one in reversed(self.summaries) if one[1] in names), None)

    def remove_summary(self) -> None:
        names = {one.id for one in self.path()} | {None}
        self.summaries = [one for one in self.summaries if one[1] not in names]
        self._forget_summaries()

    def _forget_summaries(self) -> None:
        # One that counts nowhere has been replaced.
        counting = [self.summary(line) for line in self.lines]
        self.summaries = [one for one in self.summaries if one in counting]

    def siblings(self, one: Said) -> list[str]:
        return [other.id for other in self.said if other.parent is one.parent]

    def roles(self, line: str | None = None) -> Counter[str]:
        return Counter(one.role for one in self.path(line))
