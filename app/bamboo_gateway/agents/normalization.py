"""Convert what users' agents yield into valid events.

Agents yield the gateway's classes, JSON objects of the same shape, plain strings, and `Usage`. Each
event is checked here once, including that it can be encoded. If only the session writer found that
an event cannot be stored, the run would lose its end as well.
"""

from collections.abc import AsyncGenerator, Iterator
from contextlib import AbstractContextManager, aclosing, nullcontext
from dataclasses import replace
from typing import Any, get_args

import anyio

from bamboo_gateway.domain.codec import encode
from bamboo_gateway.domain.errors import InvalidEvent
from bamboo_gateway.domain.events import (
    COUNT_MAX,
    REASON_INPUT,
    AgentEvent,
    Complete,
    InputRequired,
    TerminalEvent,
    Thinking,
    Token,
    ToolComplete,
    ToolDelta,
    ToolError,
    ToolStart,
    Usage,
    parse_agent_event,
)

# Constants, because every event is compared with them: `A | B` in the code is built each time.
_EVENT_CLASSES = get_args(AgentEvent)
_Delta = Token | Thinking | ToolDelta
_ToolEnd = ToolComplete | ToolError


def as_event(value: Any) -> AgentEvent:
    """Return the event for a value; a string becomes a `Token`.

    Raises:
        InvalidEvent: The value is no event, or one that JSON cannot hold.
    """
    if isinstance(value, str):
        value = Token(value)
    if isinstance(value, _Delta):
        # Most events are deltas; they are checked without pydantic.
        if not isinstance(value.content, str):
            raise InvalidEvent(f"Not a valid event: {value.type}.content: not a string")
        event: AgentEvent = value
        held: Any = value.content
        if held.isascii():
            return event
    elif isinstance(value, _EVENT_CLASSES):
        held = {name: getattr(value, name) for name in value.__slots__}
        event = parse_agent_event(held)
    elif isinstance(value, dict):
        held = value
        event = parse_agent_event(value)
    else:
        raise InvalidEvent(
            f"An agent yields events, objects or strings, not {type(value).__name__}."
        )
    try:
        encode(held)
    except TypeError as error:
        # Lone surrogates, numbers beyond 64 bits, keys that are no strings, other objects.
        raise InvalidEvent(f"Not a valid event: {event.type}: JSON cannot hold it") from error
    return event


async def normalized(
    values: AsyncGenerator[Any, None],
    cancelled: anyio.Event,
    boundary: AbstractContextManager[None] | None = None,
) -> AsyncGenerator[AgentEvent, None]:
    """Yield the events for all of `values`, up to and including the terminal one.

    * `Usage` is added up and becomes part of `Complete`, which is made if the agent yields none.
    * If the agent has asked people (`InputRequired`) and completes, the calls that it asks about
      stay open, and the others without a result get a `ToolError`.
    * If the agent returns, or completes with `tool_calls`, the client answers the calls that have
      no result. However else it ends, also by raising, these calls get a `ToolError`.
    * An agent that returns after it was cancelled has not completed: no terminal event is made.

    Args:
        values: The values that the agent yields; closed at the end.
        cancelled: Is set when the agent is cancelled.
        boundary: Is entered around `values`, to translate exceptions of users' code. A generator in
            between would do the same, but costs each event one more step.

    Raises:
        InvalidEvent: As `as_event`.
        Exception: Any exception of `values` that `boundary` lets through.
    """
    account = _Account()
    ending: TerminalEvent | None = None
    try:
        with boundary or nullcontext():
            async with aclosing(values):
                async for value in values:
                    if isinstance(value, Usage):
                        account.add(value)
                        continue
                    event = as_event(value)
                    if isinstance(event, TerminalEvent):
                        ending = event
                        break
                    account.note(event)
                    yield event
    except Exception:
        for closed in account.close("The agent failed before this call's result."):
            yield closed
        raise
    if ending is None and cancelled.is_set():
        return
    for last in account.end(ending):
        yield last


class _Account:
    """The open calls and the usage of a run, which its end depends on."""

    def __init__(self) -> None:
        self._open_calls: dict[str, None] = {}
        self._asked: set[str | None] = set()
        self._usage: Usage | None = None

    def add(self, usage: Usage) -> None:
        counts = usage.to_json().values()
        if not all(type(count) is int and 0 <= count <= COUNT_MAX for count in counts):
            raise InvalidEvent("Not a valid event: usage: counts are whole numbers from 0 up")
        self._usage = usage if self._usage is None else self._usage + usage

    def note(self, event: AgentEvent) -> None:
        if isinstance(event, ToolStart):
            self._open_calls[event.tool_call_id] = None
        elif isinstance(event, _ToolEnd):
            self._open_calls.pop(event.tool_call_id, None)
        elif isinstance(event, InputRequired):
            self._asked.add(event.tool_call_id)

    def close(self, words: str) -> Iterator[ToolError]:
        while self._open_calls:
            yield ToolError(self._open_calls.popitem()[0], words)

    def end(self, given: TerminalEvent | None) -> Iterator[AgentEvent]:
        ending = given or Complete(finish_reason="tool_calls" if self._open_calls else "stop")
        if self._asked and isinstance(ending, Complete):
            # The calls that are asked about wait for the answers, and for the next turn.
            ending = Complete(ending.usage, REASON_INPUT)
            self._open_calls = {name: None for name in self._open_calls if name not in self._asked}
        if isinstance(ending, Complete) and ending.usage is None:
            ending = replace(ending, usage=self._usage)
        if not (isinstance(ending, Complete) and ending.finish_reason == "tool_calls"):
            yield from self.close("The agent ended before this call's result.")
        yield ending
