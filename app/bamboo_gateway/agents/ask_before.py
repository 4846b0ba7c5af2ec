"""Approvals of tools that the client runs: `ask_before` of `openai:` agents.

The run that sees a call of a named tool asks, and ends. A denial becomes the call's error result,
and the model goes on; an approved call stays open, and the client runs it.
"""

from collections.abc import Iterable, Iterator, Mapping

from bamboo_gateway.agents.base import Answer
from bamboo_gateway.domain.codec import encode
from bamboo_gateway.domain.events import (
    REASON_INPUT,
    AgentEvent,
    Complete,
    InputRequired,
    ToolError,
    ToolStart,
)
from bamboo_gateway.domain.messages import Message

_ARGUMENTS_CHARS_MAX = 4000
"""How much of a call's arguments the question shows; the `tool_start` has them all."""

_NOT_MADE = (
    "Not called: another call of this message waits for an approval. Make this call again if it is "
    "still needed."
)
_NOT_APPROVED = "The user did not approve this call"


class ApprovalGate:
    """Holds the end of a run back when it has made calls that need an approval.

    Args:
        names: The tools that are asked about.
    """

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names
        self._calls: dict[str, ToolStart] = {}

    def passed(self, event: AgentEvent) -> Iterator[AgentEvent]:
        """Yield the event, or what takes its place."""
        if isinstance(event, ToolStart):
            self._calls[event.tool_call_id] = event
        elif isinstance(event, Complete):
            asked = [call for call in self._calls.values() if call.tool_name in self._names]
            if asked:
                for call in self._calls.values():
                    if call.tool_name not in self._names:
                        yield ToolError(call.tool_call_id, _NOT_MADE)
                yield from map(_question, asked)
                yield Complete(event.usage, REASON_INPUT)
                return
        yield event


def _question(call: ToolStart) -> InputRequired:
    given = call.arguments
    text = given if isinstance(given, str) else encode(given).decode()
    shown = text if len(text) <= _ARGUMENTS_CHARS_MAX else text[:_ARGUMENTS_CHARS_MAX] + "…"
    return InputRequired(f"Run {call.tool_name} with {shown}?", "approval", call.tool_call_id)


def denials(answers: Mapping[str, Answer]) -> list[ToolError]:
    """Return the results of the calls that were not approved."""
    return [
        ToolError(answer.request.tool_call_id, _words(answer))
        for answer in answers.values()
        if not answer.approved and answer.request.tool_call_id is not None
    ]


def _words(answer: Answer) -> str:
    if answer.status == "expired":
        return f"{_NOT_APPROVED}: there was no answer in time."
    reason = answer.value.get("reason") if isinstance(answer.value, dict) else None
    return f"{_NOT_APPROVED}: {reason}" if reason else f"{_NOT_APPROVED}."


def as_messages(results: Iterable[ToolError]) -> list[Message]:
    """Return the messages of results, for the request that follows them."""
    return [
        Message(f"denied-{one.tool_call_id}", "tool", one.error, "", tool_call_id=one.tool_call_id)
        for one in results
    ]
