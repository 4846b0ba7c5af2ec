"""The seam of the contract suite: one person at one client, whatever protocol it speaks.

Each wire has one class; its docstring says which official client it drives. All of them are run
through the same conversations by `player.Player`.
"""

import base64
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tests.processes import Gateway
from tests.wires.contract.conversations import File
from tests.wires.contract.said import Said, said_in


class Speaker(ABC):
    """A client in one conversation.

    Attributes:
        exceptions: What the protocol or its client cannot do, by the name of a conversation, with
            the reason. They are in `docs/reference/conformance.md`.
        is_httpx: Whether the client is part of the development dependencies.
        session_id: The session's id at the gateway; empty until it is known.
        cut_after: After how many frames each stream of the client is cut, the first time that it
            has so many; None: never. The client comes back as its protocol does.
    """

    exceptions: ClassVar[Mapping[str, str]] = {}
    is_httpx: ClassVar[bool] = False

    def __init__(self, gateway: Gateway, session_id: str) -> None:
        self.gateway = gateway
        self.session_id = session_id
        self.cut_after: int | None = None

    def was_cut(self) -> bool:
        """Return whether a stream was cut."""
        return self.cut_after is None

    def is_cut(self, frames: int) -> bool:
        """Return whether a stream is cut behind its frame of this number; once."""
        if self.cut_after != frames:
            return False
        self.cut_after = None
        return True

    @abstractmethod
    def say(self, text: str, files: Sequence[File] = (), tools: Sequence[str] = ()) -> None:
        """Send a message, and return while it is answered.

        Args:
            text: The words.
            files: Files that go with them.
            tools: The names of the tools that the client runs itself.
        """

    @abstractmethod
    def settle(self) -> None:
        """Wait until the client has seen the end of what it waits for, whatever the end is."""

    @abstractmethod
    def results(self, results: Mapping[str, str]) -> None:
        """Send the results of the client's own tool calls, and return while they are answered."""

    @abstractmethod
    def answer(self, answers: Mapping[str, Any]) -> None:
        """Answer open requests for input, and return while that is answered."""

    @abstractmethod
    def cancel(self) -> None:
        """Stop the run, as a person does at this client."""

    @abstractmethod
    def regenerate(self) -> None:
        """Ask for another answer to the last message, and return while it is made."""

    @abstractmethod
    def edit(self, number: int, text: str) -> None:
        """Reword the user's message with this number, and return while it is answered."""

    @abstractmethod
    def reload(self) -> None:
        """Begin again with a new client that knows the conversation's name alone.

        It loads what was said, and goes on with the answer that is being made.
        """

    @abstractmethod
    def said(self) -> Said:
        """Return what the client shows now, without asking the gateway for more."""

    def customs(self) -> list[tuple[str, Any]] | None:
        """Return the names and values of `custom` events; None: the client shows none."""
        return None

    def as_seen(self, said: Said) -> Said:
        """Return what a conversation looks like in this protocol, where it can say less."""
        return said

    def as_kept(self, said: Said) -> Said:
        """Return what the session keeps of a conversation that was said through this protocol.

        Args:
            said: What a session keeps in which it was said natively.
        """
        return said

    def close(self) -> None:
        """Release what the client holds."""
        return


def native_said(gateway: Gateway, session_id: str) -> Said:
    """Return what was said by the authoritative messages, `GET /sessions/{id}/messages`."""
    messages: list[dict[str, Any]] = []
    after: dict[str, str] = {}
    while True:
        query = {"limit": "1000"} | after
        page = gateway.call("GET", f"/sessions/{session_id}/messages", params=query)
        messages += page["messages"]
        if not page["has_more"]:
            return said_in(messages, lambda file_id: content_of(gateway, file_id))
        after = {"after": page["next_cursor"]}


def content_of(gateway: Gateway, file_id: str) -> str:
    """Return the content of a file of the gateway as base64."""
    answer = gateway.http.get(f"/files/{file_id}")
    assert answer.is_success, answer.text
    return base64.b64encode(answer.content).decode()
