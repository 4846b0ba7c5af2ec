"""Messages: what was said, in the contract's shape."""

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
    """Something said in a session.

    `content` is a string, or a list of parts (`{"type": "text", "text": …}`, `thinking`, `image`,
    `file`); a string comes back as a string. `tool_calls` are `{"id", "name", "arguments"}`.
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
    metadata: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Gives the contract's shape; what does not apply is left out."""
        shape: dict[str, Any] = {"id": self.id, "role": self.role, "content": self.content}
        for name in ("tool_calls", "tool_call_id"):
            if (value := getattr(self, name)) is not None:
                shape[name] = value
        shape["status"] = self.status
        for name in ("run_id", "usage", "model"):
            if (value := getattr(self, name)) is not None:
                shape[name] = value
        shape["created_at"] = self.created_at
        shape["metadata"] = self.metadata
        return shape

    @staticmethod
    def of(shape: dict[str, Any]) -> "Message":
        """Reads a message back from its stored shape; unknown members are left out."""
        return Message(**{name: shape[name] for name in Message.__slots__ if name in shape})

    def says_the_same(self, other: "Message") -> bool:
        """Tells whether both say the same, whatever an export has left out around it."""
        ours = (self.role, self.content, self.tool_calls, self.tool_call_id)
        return ours == (other.role, other.content, other.tool_calls, other.tool_call_id)

    def renamed(self, taken: Container[str]) -> "Message":
        """Gives the message an id that is not taken; the same one for the same message."""
        shape = self.to_json()
        for again in count():
            seed = canonical([shape, again])
            name = "msg_" + sha256(seed).hexdigest()[:26]
            if name not in taken:
                return replace(self, id=name)
        raise AssertionError  # `count` has no end

    @property
    def text(self) -> str:
        """The words alone: the string, or the text parts joined."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.get("text", "") for part in self.content if part["type"] == "text")


def distinct(messages: Iterable[Message]) -> list[Message]:
    """Gives each later message with an id that an earlier one has a derived id of its own.

    A session has each id once; logs and documents from before that was checked may have doubles.
    """
    found: list[Message] = []
    seen: set[str] = set()
    for message in messages:
        one = message.renamed(seen) if message.id in seen else message
        seen.add(one.id)
        found.append(one)
    return found
