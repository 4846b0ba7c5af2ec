"""From what people's agents yield to events that are sound.

People yield our classes, JSON objects of the same shape, plain strings, and a `Usage`. What goes on
to the session is checked here once, as far as encoding it: an event that turned out unstorable only
in the writer would take the run's end with it.
"""

from collections.abc import AsyncGenerator, Iterator
from contextlib import AbstractContextManager, aclosing, nullcontext
from typing import Any, get_args

import anyio

from bamboo_gateway.domain.codec import encode
from bamboo_gateway.domain.errors import InvalidEvent
from bamboo_gateway.domain.events import (
    COUNT_MAX,
    AgentEvent,
    Complete,
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

# Named here because each event is asked for them: an `A | B` written there is built every time.
_EVENT_CLASSES = get_args(AgentEvent)
_Delta = Token | Thinking | ToolDelta
_ToolEnd = ToolComplete | ToolError


def as_event(value: Any) -> AgentEvent:
    """Gives the event that a value stands for: a string is a `Token`.

    Raises:
        InvalidEvent: It stands for none, or for one that JSON cannot hold.
    """
    if isinstance(value, str):
        value = Token(value)
    if isinstance(value, _Delta):
        # Most events by far: checked without the detour over pydantic.
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
        # Lone surrogates, numbers beyond 64 bits, keys that are no strings, foreign objects.
        raise InvalidEvent(f"Not a valid event: {event.type}: JSON cannot hold it") from error
    return event


async def normalized(
    values: AsyncGenerator[Any, None],
    cancelled: anyio.Event,
    boundary: AbstractContextManager[None] | None = None,
) -> AsyncGenerator[AgentEvent, None]:
    """Gives the events of everything `values` yields, up to and including the terminal one.

    * A `Usage` is added up and said with the `Complete`, which is made when none is yielded.
    * Calls without a result are the client's to answer when the agent just returns, or completes
      with `tool_calls`; however else it ends, also when it raised, they get a `ToolError`.
    * An agent that just returns once it was told to end has not completed: nothing is said for it.

    Args:
        values: What the agent yields; closed at the end.
        cancelled: Is set when the agent is told to end.
        boundary: Is entered around `values`, to translate what foreign code raises. A generator
            between the two would do the same, at the price of one more step for each event.

    Raises:
        InvalidEvent: As `as_event`.
        Exception: What `values` raises, as `boundary` lets it through.
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
    """What an agent has said, as far as its end depends on it."""

    def __init__(self) -> None:
        self._open_calls: dict[str, None] = {}
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

    def close(self, words: str) -> Iterator[ToolError]:
        while self._open_calls:
            yield ToolError(self._open_calls.popitem()[0], words)

    def end(self, given: TerminalEvent | None) -> Iterator[AgentEvent]:
        ending = given or Complete(finish_reason="tool_calls" if self._open_calls else "stop")
        if isinstance(ending, Complete) and ending.usage is None:
            ending = Complete(self._usage, ending.finish_reason)
        if not (isinstance(ending, Complete) and ending.finish_reason == "tool_calls"):
            yield from self.close("The agent ended before this call's result.")
        yield ending
