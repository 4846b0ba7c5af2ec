"""Imports the branches of a session: writes its messages as the exporting gateway got them.

The messages are in the order of the log, and name their branches. So the new log begins each branch
where its first message comes, and selects another one where the next message is on another one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bamboo_gateway.domain.clock import format_ms, parse_ms
from bamboo_gateway.domain.errors import InvalidId, InvalidInput
from bamboo_gateway.domain.events import Draft
from bamboo_gateway.domain.ids import check_id
from bamboo_gateway.domain.message_assembler import message_draft
from bamboo_gateway.domain.messages import Message
from bamboo_gateway.domain.positions import Position
from bamboo_gateway.domain.sessions import MAIN_BRANCH
from bamboo_gateway.domain.short_text import preview_of
from bamboo_gateway.domain.tool_order import Settler

_MEMBERS = frozenset({"branch_id", "parent_branch_id", "from_message_id", "created_at"})


@dataclass(frozen=True, slots=True)
class _Said:
    """A path up to a message: the seq of the message, its branch, and the counts."""

    branch_id: str
    seq: int = 0
    tip_id: str | None = None
    by_role: dict[str, int] = field(default_factory=dict)
    tool_calls: int = 0
    first_at: int | None = None
    last_at: int | None = None
    preview: str | None = None

    def and_then(self, message: Message, seq: int) -> "_Said":
        said_at = parse_ms(message.created_at)
        count = self.by_role.get(message.role, 0) + 1
        return _Said(
            self.branch_id,
            seq,
            message.id,
            self.by_role | {message.role: count},
            self.tool_calls + len(message.tool_calls or ()),
            min(self.first_at or said_at, said_at),
            max(self.last_at or said_at, said_at),
            preview_of(message.to_json()) or self.preview,
        )


class BranchedHistory:
    """The events behind `session_created` for a document with branches.

    Args:
        given: The member `branches` of the document.
        branches_max: The setting `max_branches`.

    Raises:
        InvalidInput: It has a wrong shape, or more branches than are allowed.
    """

    def __init__(self, given: dict[str, Any], branches_max: int) -> None:
        self._given = given
        _check_shape(given, branches_max)
        self._waiting = [one for one in given["branches"] if one["branch_id"] != MAIN_BRANCH]
        points = {one["from_message_id"] for one in self._waiting}
        named = {one.get("message_id") for one in given["summaries"]}
        self._points = points | named
        self._tips = {MAIN_BRANCH: _Said(MAIN_BRANCH)}
        self._at: dict[str | None, _Said] = {}
        self._next: dict[str | None, str] = {}
        self._current = MAIN_BRANCH
        self._seq = 1  # that of `session_created`

    def messages(self, shapes: list[dict[str, Any]]) -> Iterator[Draft]:
        """Yield the events of the next messages."""
        for shape in shapes:
            branch_id = shape.get("branch_id") or MAIN_BRANCH
            while branch_id not in self._tips and self._waiting:
                yield self._start(self._waiting.pop(0))
            yield from self._select(branch_id)
            message = Message.of(shape)
            self._seq += 1
            tip = self._tips[branch_id]
            if tip.tip_id in self._points or tip.tip_id is None:
                self._next.setdefault(tip.tip_id, message.id)
            said = self._tips[branch_id] = tip.and_then(message, self._seq)
            if message.id in self._points:
                self._at[message.id] = said
            yield message_draft(message)

    def end(self, epoch: int) -> Iterator[Draft]:
        """Yield the events behind the last message."""
        for branch in self._waiting:
            yield self._start(branch)
        yield from self._select(self._given["current"])
        for summary in self._given["summaries"]:
            named = summary.get("message_id")
            seq = self._known(named).seq if named is not None else 0
            fields = {**summary, "message_id": named, "message_seq": seq}
            fields["position"] = str(Position(epoch, max(seq, 1)))
            self._seq += 1
            yield Draft("summary_saved", fields)

    def _start(self, branch: dict[str, Any]) -> Draft:
        name, from_id = branch["branch_id"], branch["from_message_id"]
        said = self._known(from_id) if from_id is not None else _Said(name)
        if branch["parent_branch_id"] != (said.branch_id if from_id is not None else None):
            raise _wrong("branches", f"{name}: the message it begins behind is on another branch")
        self._seq += 1
        path = {
            "seq": said.seq,
            "next_id": self._next.get(from_id),
            "left_id": self._tips[self._current].tip_id,
            "message_count": sum(said.by_role.values()),
            "by_role": said.by_role,
            "tool_calls": said.tool_calls,
            "first_message_at": format_ms(said.first_at) if said.first_at is not None else None,
            "last_message_at": format_ms(said.last_at) if said.last_at is not None else None,
            "preview": said.preview,
        }
        self._tips[name] = replace(said, branch_id=name)
        self._current = name
        return Draft("branch_started", {**branch, "path": path})

    def _select(self, branch_id: str) -> Iterator[Draft]:
        if branch_id not in self._tips:
            raise _wrong("messages", f"a message names the unknown branch {branch_id[:60]!r}")
        if branch_id != self._current:
            self._seq += 1
            self._current = branch_id
            yield Draft("branch_selected", {"branch_id": branch_id})

    def _known(self, message_id: str) -> _Said:
        said = self._at.get(message_id)
        if said is None:
            raise _wrong("branches", f"there is no message {message_id!r} before what names it")
        return said


def closing_at_tip(given: dict[str, Any], shapes: Sequence[dict[str, Any]]) -> list[Message]:
    """Return the messages that close the calls which wait at the tip of the current branch.

    A branch that has said nothing yet has none: what it begins behind is not an open call.

    Args:
        given: The member `branches` of the document, with a right shape.
        shapes: The messages of the document.
    """
    settler = Settler()
    for shape in shapes:
        if (shape.get("branch_id") or MAIN_BRANCH) == given["current"]:
            settler.take(Message.of(shape))
    return settler.end()


def _check_shape(given: dict[str, Any], branches_max: int) -> None:
    branches, summaries = given.get("branches"), given.get("summaries")
    if not isinstance(branches, list) or not all(map(_is_branch, branches)):
        raise _wrong("branches.branches", "must be a list of branches")
    if not isinstance(summaries, list) or not all(map(_is_summary, summaries)):
        raise _wrong("branches.summaries", "must be a list of summaries")
    names = [one["branch_id"] for one in branches]
    if len(set(names)) < len(names) or MAIN_BRANCH not in names:
        raise _wrong("branches.branches", f"has each id once, and {MAIN_BRANCH!r}")
    if given.get("current") not in names:
        raise _wrong("branches.current", "must be one of the branches")
    if len(names) > branches_max or len(summaries) > len(names):
        raise _wrong("branches.branches", f"has more than {branches_max} (max_branches)")


def _is_branch(value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() != _MEMBERS:
        return False
    try:
        check_id(value["branch_id"])
        parse_ms(value["created_at"])
    except (InvalidId, TypeError, ValueError, AttributeError, OverflowError):
        return False
    texts = (value["parent_branch_id"], value["from_message_id"])
    return all(isinstance(text, str | None) for text in texts)


def _is_summary(value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() - {
        "summary", "turn_count", "message_id", "created_at",
    }:  # fmt: skip
        return False
    return isinstance(value.get("message_id"), str | None)


def _wrong(place: str, what: str) -> InvalidInput:
    errors = [{"loc": place.split("."), "msg": what}]
    return InvalidInput(f"The export is not valid: {place}: {what}.", errors=errors)
