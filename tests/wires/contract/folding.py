"""Fold the events of a session into what a page shows, as the docs tell pages to do it.

It shares no code with the program and reads deltas: so a stream that was followed says the same as
`/messages` only when its deltas and its messages say the same.
"""

from collections.abc import Callable
from typing import Any

from tests.wires.contract.said import Said, said_in

Event = dict[str, Any]


class Folding:
    """The messages of the current branch, and what deltas have said of those to come."""

    def __init__(self, content_of: Callable[[str], str]) -> None:
        self._content_of = content_of
        self._shown: dict[str, Event] = {}
        self._path: list[str] = []
        self._deltas: dict[str, str] = {}
        self.customs: list[tuple[str, Any]] = []

    def take(self, event: Event) -> None:
        match event["type"]:
            case "token":
                name = event["message_id"]
                self._deltas[name] = self._deltas.get(name, "") + event["content"]
            case "message":
                self._message(event["message"])
            case "custom":
                self.customs.append((event["name"], event["value"]))
            case "branch_started":
                self._cut(event["from_message_id"])
            case _:
                pass

    def said(self) -> Said:
        """Return what the messages say, whose deltas must have said the same."""
        return said_in([self._shown[name] for name in self._path], self._content_of)

    def user_ids(self) -> list[str]:
        return [name for name in self._path if self._shown[name]["role"] == "user"]

    def _message(self, message: Event) -> None:
        name = message["id"]
        if name in self._deltas:
            assert self._deltas.pop(name) == text_in(message), "its deltas say something else"
        if name not in self._shown:
            self._path.append(name)
        self._shown[name] = message

    def _cut(self, behind: str | None) -> None:
        keep = 0 if behind is None else self._path.index(behind) + 1
        del self._path[keep:]


def text_in(message: Event) -> str:
    """Return the text of a message, without thinking."""
    if isinstance(message["content"], str):
        return message["content"]
    return "".join(part["text"] for part in message["content"] if part["type"] == "text")
