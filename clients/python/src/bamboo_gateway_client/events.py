"""The events of sessions, as a union over `type`.

They are TypedDicts and not classes of their own: an event is the JSON object that came, so nothing
is copied for each token, a field that a newer gateway adds is there, and it goes back into JSON as
it is. Type checkers narrow the union by `event["type"]`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeGuard

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bamboo_gateway_client.types import (
        CancelledEvent,
        ChangesReset,
        CompleteEvent,
        ErrorEvent,
        Event,
        Message,
        ResetEvent,
        SessionChanged,
        SessionGone,
    )

    StreamedEvent = Event | ResetEvent
    """What `session.stream()` yields. After a `reset` load the messages again."""

    Change = SessionChanged | SessionGone | ChangesReset
    """What `gateway.changes()` yields."""

    TerminalEvent = CompleteEvent | ErrorEvent | CancelledEvent
    """The last event of every run."""

TERMINAL_TYPES: Final = frozenset({"complete", "error", "cancelled"})


def is_terminal(event: Mapping[str, Any]) -> TypeGuard[TerminalEvent]:
    """Return whether a run ends with this event."""
    return event["type"] in TERMINAL_TYPES


def text_of(message: Message | None) -> str:
    """Return the text of a message, without its thinking, images and files."""
    if message is None:
        return ""
    content = message["content"]
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")
