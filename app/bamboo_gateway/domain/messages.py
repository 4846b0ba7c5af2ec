"""Messages, in the shape of the API."""

from collections.abc import Container, Iterable
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import count
from typing import Any, Literal

from bamboo_gateway.domain.codec import canonical

Role = Literal["system", "user", "assistant", "tool"]
Status = Literal["complete", "incomplete"]


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a session.

    `content` is a string, or a list of parts (`{"type": "text", "text": …}`, `thinking`, `image`,
    `file`); a string comes back as a string. `tool_calls` are `{"id", "name", "arguments"}`.
    `copied_from` is the id of the message that a merge has copied it from. The place in the tree
    (`parent_id`, `branch_id`) belongs to the log, and not to the message: `branch_folds.linked`.
    """

    id: str
    role: Role
    content: str | list[dict[str, Any]]
    created_at: str
    status: Status = "complete"
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    run_id: str | None = None
    usage: dict[str, int] | None = None
    model: str | None = None
    copied_from: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the Message of the API, without the members that do not apply."""
        shape: dict[str, Any] = {"id": self.id, "role": self.role, "content": self.content}
        for name in ("tool_calls", "tool_call_id"):
            if (value := getattr(self, name)) is not None:
                shape[name] = value
        shape["status"] = self.status
        for name in ("run_id", "usage", "model", "copied_from"):
            if (value := getattr(self, name)) is not None:
                shape[name] = value
        shape["created_at"] = self.created_at
        shape["metadata"] = self.metadata
        return shape

    @staticmethod
    def of(shape: dict[str, Any]) -> "Message":
        """Read a message from its stored shape; ignore unknown members."""
        return Message(**{name: shape[name] for name in Message.__slots__ if name in shape})

    def says_the_same(self, other: "Message") -> bool:
        """Return whether role, content and calls are the same; exports may leave out the rest."""
        ours = (self.role, self.content, self.tool_calls, self.tool_call_id)
        return ours == (other.role, other.content, other.tool_calls, other.tool_call_id)

    def renamed(self, taken: Container[str]) -> "Message":
        """Return the message with an id that is not taken; the same message gets the same one."""
        shape = self.to_json()
        for again in count():
            seed = canonical([shape, again])
            name = "msg_" + sha256(seed).hexdigest()[:26]
            if name not in taken:
                return replace(self, id=name)
        raise AssertionError  # `count` has no end

    @property
    def origin_id(self) -> str:
        """The id of the message that this one is, or was first copied from."""
        return self.copied_from or self.id

    @property
    def text(self) -> str:
        """The text of the message: the string, or the text parts joined."""
        return self.text_of(self.content)

    @staticmethod
    def text_of(content: str | list[dict[str, Any]]) -> str:
        """Return the text of a message with this content."""
        if isinstance(content, str):
            return content
        return "".join(part.get("text", "") for part in content if part["type"] == "text")


def distinct(messages: Iterable[Message]) -> list[Message]:
    """Give a derived id to each message whose id an earlier message has.

    A session has each id once. Logs and documents from before that was checked may have it twice.
    """
    found: list[Message] = []
    seen: set[str] = set()
    for message in messages:
        one = message.renamed(seen) if message.id in seen else message
        seen.add(one.id)
        found.append(one)
    return found
