"""The order of messages in a session: one that OpenAI-compatible servers accept.

A message with tool calls is followed by one result for each call, before any other message. A
result may be nowhere else. A session whose history breaks this is dead: the model server refuses
every later request with that history.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any

from bamboo_gateway.domain.errors import InvalidInput, Refused
from bamboo_gateway.domain.messages import Message

INTERRUPTED = "The call was interrupted before it gave a result."
UNANSWERED = "The conversation went on without a result of this call."
SUPERSEDED = "The conversation went on in another branch before this call had a result."

OPEN_CALLS_MAX = 128
"""The most calls that wait for a result, all in the head; OpenAI allows as many in a message."""

OPEN_CALLS_CHARS_MAX = 16 * 1024
"""The most characters of their ids together: some servers put signatures of some KB into an id."""


def open_after(open_calls: Sequence[str], message: Mapping[str, Any]) -> list[str]:
    """Return the calls that wait for a result after `message`.

    Foreign histories may skip a call. After the next message nothing can answer it in its place.
    """
    if message["role"] == "tool":
        return [call_id for call_id in open_calls if call_id != message.get("tool_call_id")]
    return [call["id"] for call in message.get("tool_calls") or ()]


def too_many(open_calls: Sequence[str]) -> bool:
    """Return whether these are more calls than a session holds."""
    return len(open_calls) > OPEN_CALLS_MAX or sum(map(len, open_calls)) > OPEN_CALLS_CHARS_MAX


def in_order(
    open_calls: Sequence[str],
    given: Iterable[Message],
    *,
    close: Callable[[str], Message] | None,
    all_answered: bool,
) -> list[Message]:
    """Return a client's messages in an order in which they may follow the conversation.

    Args:
        open_calls: The calls that wait for a result before these messages.
        given: The client's messages.
        close: Makes the message that closes a skipped call; with None skipping a call is refused.
        all_answered: Whether no call may wait after these messages, because a run follows.

    Raises:
        Refused: `no-open-tool-call`: no call waits for this result. `open-tool-calls`: the messages
            skip calls.
        InvalidInput: A message has two calls with one id, or too many calls.
    """
    waiting = list(open_calls)
    said: list[Message] = []

    def pass_over() -> None:
        if waiting and close is None:
            raise still_open(waiting)
        said.extend(close(call_id) for call_id in waiting if close is not None)
        waiting.clear()

    for message in given:
        if message.role != "tool":
            pass_over()
        elif message.tool_call_id not in waiting:
            raise Refused(
                f"No tool call {message.tool_call_id!r} waits for a result.",
                code="no-open-tool-call",
                extra={"tool_call_id": message.tool_call_id, "open_tool_call_ids": waiting},
            )
        said.append(message)
        waiting = open_after(waiting, {"role": message.role, **_calls_of(message)})
        if len(set(waiting)) < len(waiting):
            raise InvalidInput("Two tool calls of a message have the same id.")
        if too_many(waiting):
            raise InvalidInput(f"A message makes at most {OPEN_CALLS_MAX} tool calls.")
    if all_answered:
        pass_over()
    return said


def settled(messages: Iterable[Message], *, at_end: bool) -> tuple[list[Message], list[Message]]:
    """Close the calls that a foreign history skipped.

    Args:
        messages: The history.
        at_end: Whether to close the calls of the last message too: they get no result any more.

    Returns:
        The whole history, and the messages that were added to it. The ids of these are derived, so
        that the same history gets the same ones again, and a merge recognises them.
    """
    settler = Settler()
    said: list[Message] = []
    added: list[Message] = []
    for message in messages:
        closing = settler.take(message)
        said += [*closing, message]
        added += closing
    if at_end:
        closing = settler.end()
        said += closing
        added += closing
    return said, added


class Settler:
    """Does what `settled` does, message by message, for a history that does not fit into memory."""

    __slots__ = ("_calling", "_said_at", "_waiting")

    def __init__(self) -> None:
        self._waiting: list[str] = []
        self._calling = ""
        self._said_at = ""

    def take(self, message: Message) -> list[Message]:
        """Take the next message; return the messages that close the calls it skips."""
        closing: list[Message] = []
        if message.role != "tool":
            closing = self.end()
            self._calling = message.id
        self._said_at = message.created_at
        self._waiting = open_after(self._waiting, {"role": message.role, **_calls_of(message)})
        return closing

    def end(self) -> list[Message]:
        """Return the messages that close the calls that still wait."""
        return [
            Message(
                id="msg_" + sha256(f"{self._calling}\0{call_id}".encode()).hexdigest()[:26],
                role="tool",
                content=UNANSWERED,
                created_at=self._said_at,
                tool_call_id=call_id,
                metadata={"closed": True},
            )
            for call_id in dict.fromkeys(self._waiting)
        ]


def _calls_of(message: Message) -> dict[str, Any]:
    return {"tool_calls": message.tool_calls, "tool_call_id": message.tool_call_id}


def still_open(call_ids: Sequence[str]) -> Refused:
    """Return the error for messages that skip open calls."""
    return Refused(
        f"{len(call_ids)} tool calls wait for their results: {', '.join(call_ids)[:500]}.",
        code="open-tool-calls",
        extra={"open_tool_call_ids": list(call_ids)},
    )


class OrderedMessages:
    """Orders the messages of one run as they are made.

    A run may begin another message while calls of an earlier one run (tools within tools). That
    message and all later ones are held back until those calls have their results.
    """

    __slots__ = (
        "_held",
        "_waiting",
    )

    def __init__(self) -> None:
        self._waiting: list[str] = []
        self._held: list[Message] = []

    @property
    def waiting(self) -> Sequence[str]:
        """The calls of released messages that have no result yet."""
        return self._waiting

    @property
    def is_holding(self) -> bool:
        """Whether messages are held back."""
        return bool(self._held)

    def holds(self, message_id: str) -> bool:
        """Return whether a message with this id is held back."""
        return any(held.id == message_id for held in self._held)

    def take_over(self, call_ids: Iterable[str]) -> None:
        """Wait for calls of a message that is in the log from before this run."""
        self._waiting = [*self._waiting, *call_ids]

    def put(self, message: Message) -> list[Message]:
        """Add the next message; return those that may enter the log now, in order."""
        self._held.append(message)
        return self.release()

    def release(self) -> list[Message]:
        """Return the held messages that may enter the log now, in order."""
        said: list[Message] = []
        while (at := self._next()) is not None:
            following = self._held.pop(at)
            self.note(following)
            said.append(following)
        return said

    def note(self, message: Message) -> None:
        """Note a message that is in the log."""
        self._held = [held for held in self._held if held.id != message.id]
        shape = {"role": message.role, **_calls_of(message)}
        self._waiting = open_after(self._waiting, shape)

    def hold(self, message: Message) -> None:
        """Restore a message that was held back, from the log."""
        self._held.append(message)

    def _next(self) -> int | None:
        if not self._waiting:
            return 0 if self._held else None
        for at, held in enumerate(self._held):
            if held.role == "tool" and held.tool_call_id in self._waiting:
                return at
        return None
