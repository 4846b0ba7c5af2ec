"""Turn the events of an AG-UI stream into the gateway's."""

from collections.abc import Callable, Iterator
from typing import Any, Final

from bamboo_gateway.agents.agui_messages import request_id_of
from bamboo_gateway.agents.base import AgentError, Turn
from bamboo_gateway.agents.upstream_errors import words_of_error
from bamboo_gateway.domain.clock import format_ms, parse_ms
from bamboo_gateway.domain.codec import object_in
from bamboo_gateway.domain.errors import InvalidEvent
from bamboo_gateway.domain.events import (
    PROMPT_CHARS_MAX,
    AgentEvent,
    Cancelled,
    Complete,
    Custom,
    Failed,
    InputRequired,
    RequestKind,
    Thinking,
    Token,
    ToolComplete,
    ToolDelta,
    ToolResult,
    ToolStart,
    Usage,
    parse_agent_event,
)
from bamboo_gateway.domain.ids import is_id

CUSTOM_NAME: Final = "ag_ui"
"""The name of the custom events that carry events of the protocol."""

_CARRIED: Final = frozenset(
    {
        "STATE_SNAPSHOT",
        "STATE_DELTA",
        "STEP_STARTED",
        "STEP_FINISHED",
        "ACTIVITY_SNAPSHOT",
        "ACTIVITY_DELTA",
        "RAW",
        "SUBAGENT_STARTED",
        "SUBAGENT_FINISHED",
        "SUBAGENT_ERROR",
    }
)
_ENVELOPE: Final = frozenset({"timestamp", "rawEvent"})
_COUNTS: Final = {
    "prompt_tokens": "inputTokens",
    "completion_tokens": "outputTokens",
    "total_tokens": "totalTokens",
    "cached_tokens": "cachedInputTokens",
    "reasoning_tokens": "reasoningTokens",
}
_CODE_CHARS_MAX: Final = 64


class EventReader:
    """The events of one run.

    Args:
        turn: The turn that the service answers.
        secrets: Texts that never appear in messages.

    Attributes:
        has_ended: Whether the run's last event was read.
    """

    def __init__(self, turn: Turn, secrets: tuple[str, ...] = ()) -> None:
        self.has_ended = False
        self._secrets = secrets
        # The calls that are not whole yet, with their name and the pieces of their arguments.
        self._made: dict[str, tuple[str, list[str]]] = {}
        self._last_call: str | None = None
        carried = {answer.request.tool_call_id for answer in turn.answers.values()}
        self._open = {call_id for call_id in carried if call_id is not None}
        self._said_in: str | None = None
        # The THINKING event is of versions before 1.0.
        self._readers: dict[str, Callable[[dict[str, Any]], Iterator[AgentEvent]]] = {
            "TEXT_MESSAGE_CONTENT": self._text,
            "TEXT_MESSAGE_CHUNK": self._text,
            "REASONING_MESSAGE_CONTENT": self._thought,
            "REASONING_MESSAGE_CHUNK": self._thought,
            "THINKING_TEXT_MESSAGE_CONTENT": self._thought,
            "TOOL_CALL_START": self._start,
            "TOOL_CALL_ARGS": self._args,
            "TOOL_CALL_CHUNK": self._chunk,
            "TOOL_CALL_END": self._end,
            "TOOL_CALL_RESULT": self._result,
            "CUSTOM": self._custom,
            "RUN_FINISHED": self._finished,
            "RUN_ERROR": self._failed,
        }

    def feed(self, event: dict[str, Any]) -> Iterator[AgentEvent]:
        """Yield what an event of the stream says.

        Raises:
            AgentError: It is not an event of the protocol, or says that the run has failed.
        """
        kind = event["type"]
        try:
            yield from self._read(kind, event)
        except (KeyError, TypeError, AttributeError, ValueError, InvalidEvent) as error:
            raise invalid(f"an event {kind[:40]!r} that is not of the protocol") from error

    def _read(self, kind: str, event: dict[str, Any]) -> Iterator[AgentEvent]:
        if kind != "TOOL_CALL_CHUNK":
            yield from self._end_of_chunks()
        if kind in _CARRIED:
            kept = {name: value for name, value in event.items() if name not in _ENVELOPE}
            yield Custom(CUSTOM_NAME, kept)
        elif (read := self._readers.get(kind)) is not None:
            yield from read(event)
        # Else: the starts and ends of texts, snapshots of messages, and what is new.

    def _text(self, event: dict[str, Any]) -> Iterator[AgentEvent]:
        text = event.get("delta")
        if not text:
            return
        message_id = event.get("messageId") or self._said_in
        if self._said_in not in (None, message_id):
            # Two messages of the service are one of the session, unless results are between them.
            yield Token("\n\n")
        self._said_in = message_id
        yield Token(_text_of(text))

    def _thought(self, event: dict[str, Any]) -> Iterator[AgentEvent]:
        if event.get("delta"):
            yield Thinking(_text_of(event["delta"]))

    def _custom(self, event: dict[str, Any]) -> Iterator[AgentEvent]:
        yield Custom(_text_of(event["name"]), event.get("value"))

    # -- calls --------------------------------------------------------------------------------

    def _start(self, event: dict[str, Any]) -> Iterator[AgentEvent]:
        self._made[_text_of(event["toolCallId"])] = (_text_of(event["toolCallName"]), [])
        yield from ()

    def _args(self, event: dict[str, Any]) -> Iterator[AgentEvent]:
        yield from self._arguments(_text_of(event["toolCallId"]), event["delta"])

    def _end(self, event: dict[str, Any]) -> Iterator[AgentEvent]:
        yield from self._called(_text_of(event["toolCallId"]))

    def _arguments(self, call_id: str, piece: Any) -> Iterator[AgentEvent]:
        _, pieces = self._made[call_id]
        if piece:
            pieces.append(_text_of(piece))
            yield ToolDelta(call_id, piece)

    def _chunk(self, event: dict[str, Any]) -> Iterator[AgentEvent]:
        call_id = event.get("toolCallId") or self._last_call
        if call_id != self._last_call:
            yield from self._end_of_chunks()
        if call_id not in self._made:
            self._made[_text_of(call_id)] = (_text_of(event["toolCallName"]), [])
        self._last_call = call_id
        yield from self._arguments(_text_of(call_id), event.get("delta"))

    def _end_of_chunks(self) -> Iterator[AgentEvent]:
        call_id, self._last_call = self._last_call, None
        if call_id is not None:
            yield from self._called(call_id)

    def _called(self, call_id: str) -> Iterator[AgentEvent]:
        name, pieces = self._made.pop(call_id)
        text = "".join(pieces)
        arguments: dict[str, Any] | str = {} if not text.strip() else text
        if isinstance(arguments, str):
            read = object_in(arguments)
            arguments = arguments if read is None else read
        if call_id not in self._open:
            self._open.add(call_id)
            yield ToolStart(call_id, name, arguments)

    def _result(self, event: dict[str, Any]) -> Iterator[AgentEvent]:
        call_id = _text_of(event["toolCallId"])
        if call_id in self._made:
            yield from self._called(call_id)
        if call_id not in self._open:
            return  # of an earlier run, whose messages the session has
        self._open.discard(call_id)
        self._said_in = None
        yield ToolComplete(call_id, ToolResult(True, _content_of(event["content"])))

    # -- the end ------------------------------------------------------------------------------

    def _finished(self, event: dict[str, Any]) -> Iterator[AgentEvent]:
        for call_id in list(self._made):
            yield from self._called(call_id)
        self.has_ended = True
        outcome = event.get("outcome")
        outcome = outcome if isinstance(outcome, dict) else {}
        if outcome.get("type") == "cancelled":
            yield Cancelled("The agent service cancelled the run.")
            return
        if outcome.get("type") == "interrupt":
            for interrupt in outcome["interrupts"]:
                yield self._request(interrupt)
        usage, model = _usage_of(event.get("usage"))
        reason = "tool_calls" if self._open else "stop"
        yield Complete(usage, reason, model)

    def _request(self, interrupt: dict[str, Any]) -> AgentEvent:
        name = _text_of(interrupt["id"])
        schema = interrupt.get("responseSchema")
        kind = _kind_of(schema)
        prompt = interrupt.get("message") or interrupt.get("reason") or "The agent asks for input."
        request: dict[str, Any] = {
            "type": "input_required",
            "prompt": _text_of(prompt)[:PROMPT_CHARS_MAX],
            "kind": kind,
            "request_id": name if is_id(name) else request_id_of(name),
        }
        if interrupt.get("toolCallId") in self._open:
            request["tool_call_id"] = interrupt["toolCallId"]
        if kind != "approval" and isinstance(schema, dict):
            request["schema"] = schema
        if (expires_at := interrupt.get("expiresAt")) is not None:
            request["expires_at"] = format_ms(parse_ms(expires_at))
        event = parse_agent_event(request)
        assert isinstance(event, InputRequired)
        return event

    def _failed(self, event: dict[str, Any]) -> Iterator[AgentEvent]:
        self.has_ended = True
        words = words_of_error({"message": event.get("message")}, self._secrets)
        code = event.get("code")
        code = code if isinstance(code, str) and 0 < len(code) <= _CODE_CHARS_MAX else None
        yield Failed(words or "The agent service failed.", code or "upstream_error")


def _kind_of(schema: Any) -> RequestKind:
    if not isinstance(schema, dict):
        return "question"
    properties = schema.get("properties")
    if isinstance(properties, dict) and "approved" in properties:
        return "approval"
    return "form" if schema.get("type") == "object" else "question"


def _usage_of(usages: Any) -> tuple[Usage | None, str | None]:
    """Return the sum of a run's usages, and the model of the last one that names one."""
    if not isinstance(usages, list) or not usages:
        return None, None
    total, model = Usage(), None
    for one in usages:
        counts = {name: one.get(theirs) or 0 for name, theirs in _COUNTS.items()}
        counts["total_tokens"] = (
            counts["total_tokens"] or counts["prompt_tokens"] + counts["completion_tokens"]
        )
        total += Usage.of(counts)
        model = one.get("model") or model
    return total, model


def _content_of(content: Any) -> Any:
    if isinstance(content, list) and all(
        isinstance(part, dict) and part.get("type") == "text" for part in content
    ):
        return "".join(_text_of(part["text"]) for part in content)
    return content


def _text_of(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value


def invalid(what: str) -> AgentError:
    """Return the error for an answer that is not the protocol."""
    return AgentError(f"The agent service sent {what}.", code="upstream_invalid")
