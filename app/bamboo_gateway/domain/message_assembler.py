"""Assemble messages from the events of a run.

Text, thinking and tool starts up to the first tool result become one assistant message. Each result
becomes one tool message; then a new assistant message begins. A message gets its id when it begins,
so that deltas and the authoritative message have the same id. Messages enter the log in the order
of `tool_order`. At the end of the run, calls without a result are closed. A run that asks for input
leaves the calls that it asks about to the run that gets the answers, which goes on with them.

A refused event changes nothing, so everything before it is kept. The state is a fold over the
drafts that were returned: `replay` restores it from the log for a run that a crash interrupted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, assert_never

from bamboo_gateway.domain.agent_messages import checked_message
from bamboo_gateway.domain.answer_schema import check_schema
from bamboo_gateway.domain.codec import encode
from bamboo_gateway.domain.deltas import Delta, DeltaStem, encoded_text
from bamboo_gateway.domain.errors import InvalidEvent, TooLarge
from bamboo_gateway.domain.events import (
    REASON_INPUT,
    AgentEvent,
    Cancelled,
    Complete,
    Custom,
    DeltaEvent,
    Draft,
    Failed,
    InputRequired,
    MessageSaid,
    TerminalEvent,
    Thinking,
    Token,
    ToolComplete,
    ToolDelta,
    ToolError,
    ToolStart,
    Usage,
)
from bamboo_gateway.domain.messages import Message, Status
from bamboo_gateway.domain.tool_order import (
    INTERRUPTED,
    OPEN_CALLS_MAX,
    OrderedMessages,
    too_many,
)

_ENVELOPE_BYTES = 640
"""The bytes that the gateway adds to a text: ids of at most 128 characters, times, names."""

_PART_BYTES = 40
"""The bytes of a part of a message beside its text."""

MODEL_CHARS_MAX = 200
"""The longest name of a model that is kept; agents name their models themselves."""

REQUESTS_MAX = 64
"""The most requests for input of one run, all in the head. A form asks for many values at once."""

_WORDS_CHARS_MAX = 2000
"""The longest reason or error of a terminal event, which must always fit into an event."""


@dataclass(slots=True)
class _Pending:
    """An assistant message that has begun and is not in the log yet."""

    id: str
    parts: list[tuple[str, list[str]]] = field(default_factory=list)
    calls: dict[str, dict[str, Any]] = field(default_factory=dict)
    size: int = 0
    # The last part; most texts are added to it.
    kind: str = ""
    texts: list[str] = field(default_factory=list)

    def add(self, kind: str, text: str, size: int) -> None:
        self.size += size
        if kind != self.kind:
            self.size += _PART_BYTES
            self.kind, self.texts = kind, []
            self.parts.append((kind, self.texts))
        self.texts.append(text)

    def content(self) -> str | list[dict[str, Any]]:
        if all(kind == "text" for kind, _ in self.parts):
            return "".join(text for _, texts in self.parts for text in texts)
        return [{"type": kind, "text": "".join(texts)} for kind, texts in self.parts]

    @property
    def is_empty(self) -> bool:
        return not self.parts and not self.calls


class MessageAssembler:
    """Assembles the messages of one run.

    Args:
        run_id: The run's id, which every draft has.
        make_id: Returns a new message id.
        now: Returns the present time as the API writes it.
        event_bytes_max: The largest event. Text that does not fit into one message is split into
            several, so that nothing is lost however much the agent says.
        make_request_id: Returns a new id of a request for input.
    """

    __slots__ = (
        "_asked",
        "_called",
        "_make_id",
        "_make_request_id",
        "_model",
        "_now",
        "_open",
        "_order",
        "_pending",
        "_run_id",
        "_size_max",
        "_stem",
        "_stem_of",
    )

    def __init__(
        self,
        run_id: str,
        make_id: Callable[[], str],
        now: Callable[[], str],
        event_bytes_max: int,
        make_request_id: Callable[[], str] | None = None,
        model: str | None = None,
    ) -> None:
        self._run_id = run_id
        self._make_id = make_id
        self._make_request_id = make_request_id or make_id
        self._now = now
        self._size_max = max(event_bytes_max - _ENVELOPE_BYTES, event_bytes_max // 3)
        self._model = model
        self._pending: _Pending | None = None
        self._called: dict[str, str] = {}
        self._open: dict[str, None] = {}
        self._order = OrderedMessages()
        # The requests for input of this run, with the call that each names.
        self._asked: dict[str, str | None] = {}
        # The stem of the last delta, and what it was made for.
        self._stem: DeltaStem | None = None
        self._stem_of: tuple[str, str, str | None] | None = None

    def feed(self, event: AgentEvent) -> list[Draft]:
        """Return the drafts for an event; they belong into one commit.

        Raises:
            InvalidEvent: The event is a tool result without a call, a second result of a call, or a
                message out of order.
            TooLarge: The event is larger than `event_bytes_max`.
        """
        match event:
            case Token() | Thinking() | ToolDelta():
                before, delta = self.delta(event)
                return [*before, delta.stem.draft(event.content)]
            case ToolStart():
                return self._tool_start(event)
            case ToolComplete():
                result = {"success": event.result.success, "content": event.result.content}
                fields = {"tool_call_id": event.tool_call_id, "result": result}
                return self._tool_result("tool_complete", fields, _as_text(event.result.content))
            case ToolError():
                failed = {"tool_call_id": event.tool_call_id, "error": event.error}
                return self._tool_result("tool_error", failed, event.error)
            case MessageSaid():
                return self._said(checked_message(event.message))
            case InputRequired():
                return [self._input_required(event)]
            case Custom():
                return [Draft("custom", self._of(None, name=event.name, value=event.value))]
            case Complete() | Failed() | Cancelled():
                return self.end(event)
            case _:
                assert_never(event)

    def delta(self, event: DeltaEvent) -> tuple[list[Draft], Delta]:
        """Return the delta for an event, and what comes before it: a message that has no room.

        It does the same as `feed` for these events, which are most events, at a lower cost.

        Raises:
            InvalidEvent: The content cannot be stored.
            TooLarge: The event is larger than `event_bytes_max`.
        """
        kind, content = event.type, event.content
        text = encoded_text(kind, content)
        size = len(text) + 2  # with its quotation marks
        if size > self._size_max:
            raise self._too_large(kind)
        if isinstance(event, ToolDelta):
            call_id = event.tool_call_id
            message_id = self._called.get(call_id)
            if message_id is None:
                message_id = self._begun().id
            return [], Delta(self._stem_for(kind, message_id, call_id), text)
        before = self._make_room(size)
        pending = self._begun()
        pending.add("text" if kind == "token" else "thinking", content, size)
        return before, Delta(self._stem_for(kind, pending.id), text)

    def carry(self, call_ids: Sequence[str]) -> None:
        """Take over the open calls of an earlier run; this one gives their results.

        Their message is in the log, so nothing else is said before they have results.
        """
        self._called |= dict.fromkeys(call_ids, "")
        self._open |= dict.fromkeys(call_ids)
        self._order.take_over(call_ids)

    def end(self, event: TerminalEvent) -> list[Draft]:
        """Return the messages that are not in the log yet, and the terminal event after them.

        Calls without a result are closed. Two kinds stay open: when the run completes with
        `tool_calls`, those of the last message, which the client answers; when it completes and has
        asked for input, those that it asks about. Requests of a run that ends otherwise are closed.
        """
        event = self._final(event)
        if isinstance(event, Complete):
            if event.model:
                self._model = event.model[:MODEL_CHARS_MAX]
            drafts = self._flush("complete", event.usage)
        else:
            drafts = self._flush("incomplete")
        while (call_id := self._to_close(event)) is not None:
            unanswered = {"tool_call_id": call_id, "error": INTERRUPTED}
            drafts += self._tool_result("tool_error", unanswered, INTERRUPTED)
        if not _asks(event):
            drafts += [
                Draft("input_closed", {"request_id": name, "reason": "cancelled"})
                for name in self._asked
            ]
        match event:
            case Complete():
                fields = self._of(None, finish_reason=self._cut(event.finish_reason))
                if event.usage is not None:
                    fields["usage"] = event.usage.to_json()
                if event.model:
                    fields["model"] = self._model
            case Failed():
                words = {"message": self._cut(event.message), "code": self._cut(event.code)}
                fields = self._of(None, **words)
            case Cancelled():
                fields = self._of(None, reason=self._cut(event.reason))
            case _:
                assert_never(event)
        return [*drafts, Draft(event.type, fields)]

    def is_making(self, message_id: str) -> bool:
        """Return whether a message with this id has begun and is not in the log yet."""
        if self._pending is not None and self._pending.id == message_id:
            return True
        return self._order.holds(message_id)

    def replay(self, event: dict[str, Any]) -> None:
        """Apply an event of this run from the log."""
        match event["type"]:
            case "token" | "thinking":
                kind = "text" if event["type"] == "token" else "thinking"
                text = event["content"]
                self._resumed(event["message_id"]).add(kind, text, _size_of(text))
            case "tool_delta":
                if event["tool_call_id"] not in self._called:
                    self._resumed(event["message_id"])
            case "tool_start":
                if event["tool_call_id"] not in self._called:
                    self._add_call(self._resumed(event["message_id"]), event)
            case "tool_complete" | "tool_error":
                self._replay_result(event)
            case "message":
                self._note(Message.of(event["message"]))
            case "input_required":
                self._asked[event["request_id"]] = event.get("tool_call_id")
            case "run_start":
                self.carry(event.get("tool_call_ids") or ())
            case _:
                pass

    def _final(self, event: TerminalEvent) -> TerminalEvent:
        """Return how the run ends, as far as what it has asked decides it."""
        if not self._asked or not isinstance(event, Complete):
            return event
        # Messages behind a call are stored behind its result, and this one comes in another run.
        says_more = self._order.is_holding or self._pending is not None
        if says_more and not self._calls_asked().isdisjoint(self._order.waiting):
            return Failed(_SAID_TOO_LATE, "invalid_event")
        return replace(event, finish_reason=REASON_INPUT)

    def _to_close(self, event: TerminalEvent) -> str | None:
        """Return the next call that is closed at the end of the run."""
        waiting = self._order.waiting
        if _asks(event):
            asked = self._calls_asked()
            waiting = [call_id for call_id in waiting if call_id not in asked]
        elif isinstance(event, Complete) and event.finish_reason == "tool_calls":
            waiting = waiting if self._order.is_holding else ()
        return waiting[0] if waiting else None

    def _calls_asked(self) -> set[str]:
        return {call_id for call_id in self._asked.values() if call_id in self._open}

    # -- events of the agent ------------------------------------------------------------------

    def _tool_start(self, event: ToolStart) -> list[Draft]:
        call_id = event.tool_call_id
        if call_id in self._called and call_id not in self._open:
            raise InvalidEvent(f"tool_start: the call {call_id!r} has its result already")
        fields = {
            "tool_call_id": call_id,
            "tool_name": event.tool_name,
            "arguments": event.arguments,
        }
        size = self._check_size(event.type, fields)
        if call_id in self._called:
            return [Draft("tool_start", self._of(self._called[call_id], **fields))]
        if too_many([*self._open, call_id]):
            raise InvalidEvent(f"tool_start: {OPEN_CALLS_MAX} calls are open, or ids are too long")
        before = self._make_room(size)
        pending = self._begun()
        pending.size += size
        self._add_call(pending, fields)
        return [*before, Draft("tool_start", self._of(pending.id, **fields))]

    def _tool_result(self, kind: str, fields: dict[str, Any], text: str) -> list[Draft]:
        call_id: str = fields["tool_call_id"]
        if call_id not in self._called:
            raise InvalidEvent(f"{kind}: no tool_start for the call {call_id!r}")
        if call_id not in self._open:
            raise InvalidEvent(f"{kind}: the call {call_id!r} has its result already")
        self._check_size(kind, fields)
        self._check_size(kind, text)
        message = Message(
            self._make_id(), "tool", text, self._now(), tool_call_id=call_id, run_id=self._run_id
        )
        # A result never comes before the message with its call: model servers reject that.
        before = self._flush("complete") if self._holds(call_id) else []
        del self._open[call_id]
        return [*before, Draft(kind, self._of(message.id, **fields)), *self._put(message)]

    def _input_required(self, event: InputRequired) -> Draft:
        name = event.request_id or self._make_request_id()
        if name in self._asked:
            raise InvalidEvent(f"input_required: the run has asked {name!r} already")
        if len(self._asked) >= REQUESTS_MAX:
            raise InvalidEvent(f"input_required: a run asks at most {REQUESTS_MAX} times")
        if event.tool_call_id is not None and event.tool_call_id not in self._open:
            raise InvalidEvent(f"input_required: no open call {event.tool_call_id!r}")
        if event.schema is not None:
            if event.kind == "approval":
                raise InvalidEvent("input_required: an approval has no schema")
            check_schema(event.schema)
        fields = self._of(None, request_id=name, kind=event.kind, prompt=event.prompt)
        for member in ("tool_call_id", "schema", "expires_at"):
            if (value := getattr(event, member)) is not None:
                fields[member] = value
        self._check_size(event.type, fields)
        self._asked[name] = event.tool_call_id
        return Draft(event.type, fields)

    def _said(self, shape: dict[str, Any]) -> list[Draft]:
        role, call_id = shape["role"], shape.get("tool_call_id")
        if role == "tool":
            if call_id not in self._called:
                raise InvalidEvent(f"message: no tool call {call_id!r} for this result")
            if call_id not in self._open:
                # The gateway has made this message already, from the call's `tool_complete`.
                return []
            if call_id not in self._order.waiting and not self._comes_next(call_id):
                raise InvalidEvent(f"message: calls before {call_id!r} have no result yet")
        elif self._order.waiting:
            waiting = ", ".join(self._order.waiting)[:500]
            raise InvalidEvent(f"message: the tool calls {waiting} have no result yet")
        # The authoritative message gets the place and the id of the deltas.
        pending = self._pending if role == "assistant" else None
        if pending is not None and pending.calls:
            named = {call["id"] for call in shape.get("tool_calls") or ()}
            missing = [call for name, call in pending.calls.items() if name not in named]
            shape = shape | {"tool_calls": [*(shape.get("tool_calls") or ()), *missing]}
        message = Message(
            pending.id if pending else self._make_id(),
            created_at=self._now(),
            run_id=self._run_id,
            **self._with_model(shape),
        )
        self._check_size("message", shape)
        new = [call["id"] for call in message.tool_calls or () if call["id"] not in self._open]
        if too_many([*self._open, *new]):
            raise InvalidEvent(f"message: more than {OPEN_CALLS_MAX} open tool calls")
        if any(name in self._called for name in new):
            raise InvalidEvent("message: one of its tool calls has its result already")
        before = self._flush("complete") if role == "tool" and self._holds(call_id) else []
        self._note(message)
        # A result that the agent yields as a message may release later messages.
        released = [self._message(held) for held in self._order.release()]
        return [*before, self._message(message), *released]

    # -- pending messages ---------------------------------------------------------------------

    def _begun(self) -> _Pending:
        if self._pending is None:
            self._pending = _Pending(self._make_id())
        return self._pending

    def _make_room(self, size: int) -> list[Draft]:
        """End the pending message if `size` more bytes would make it too large for an event."""
        pending = self._pending
        if pending is None or pending.size + size + _PART_BYTES <= self._size_max:
            return []
        return self._flush("complete")

    def _add_call(self, pending: _Pending, fields: dict[str, Any]) -> None:
        call_id = fields["tool_call_id"]
        pending.calls[call_id] = {
            "id": call_id,
            "name": fields["tool_name"],
            "arguments": fields["arguments"],
        }
        self._called[call_id] = pending.id
        self._open[call_id] = None

    def _holds(self, call_id: Any) -> bool:
        return self._pending is not None and call_id in self._pending.calls

    def _comes_next(self, call_id: Any) -> bool:
        return self._holds(call_id) and not self._order.waiting

    def _with_model(self, shape: dict[str, Any]) -> dict[str, Any]:
        if self._model is None or shape["role"] != "assistant" or shape.get("model"):
            return shape
        return shape | {"model": self._model}

    def _flush(self, status: Status, usage: Usage | None = None) -> list[Draft]:
        message = self._taken(status)
        if message is None:
            return []
        if usage is not None:
            message = replace(message, usage=dict[str, int](**usage.to_json()))
        return self._put(message)

    def _taken(self, status: Status) -> Message | None:
        pending, self._pending = self._pending, None
        if pending is None or pending.is_empty:
            return None
        return Message(
            pending.id,
            "assistant",
            pending.content(),
            self._now(),
            status=status,
            tool_calls=list(pending.calls.values()) or None,
            run_id=self._run_id,
            model=self._model,
        )

    def _put(self, message: Message) -> list[Draft]:
        return [self._message(said) for said in self._order.put(message)]

    def _note(self, message: Message) -> None:
        """Note a message that is in the log, or will be in the next commit."""
        if self._pending is not None and self._pending.id == message.id:
            self._pending = None
        for call in message.tool_calls or ():
            if call["id"] not in self._called:
                self._called[call["id"]] = message.id
                self._open[call["id"]] = None
        if message.role == "tool":
            self._open.pop(message.tool_call_id or "", None)
        self._order.note(message)

    # -- replay of the log --------------------------------------------------------------------

    def _resumed(self, message_id: str) -> _Pending:
        if self._pending is not None and self._pending.id != message_id:
            # Its text continued in another message; this one waits for results of earlier calls.
            self._hold_pending()
        if self._pending is None:
            self._pending = _Pending(message_id)
        return self._pending

    def _hold_pending(self) -> None:
        message = self._taken("complete")
        if message is not None:
            self._order.hold(message)

    def _replay_result(self, event: dict[str, Any]) -> None:
        call_id = event["tool_call_id"]
        if self._holds(call_id):
            self._hold_pending()
        self._open.pop(call_id, None)
        text = event["error"] if "error" in event else _as_text(event["result"]["content"])
        # If it was not held back, its message comes next in the log and replaces this one.
        self._order.hold(
            Message(
                event["message_id"],
                "tool",
                text,
                event["time"],
                tool_call_id=call_id,
                run_id=self._run_id,
            )
        )

    # -- drafts -------------------------------------------------------------------------------

    def _of(self, message_id: str | None, **fields: Any) -> dict[str, Any]:
        head = {"run_id": self._run_id}
        if message_id is not None:
            head["message_id"] = message_id
        return head | fields

    def _message(self, message: Message) -> Draft:
        return message_draft(message, self._run_id)

    def _stem_for(self, kind: str, message_id: str, call_id: str | None = None) -> DeltaStem:
        made_for = (kind, message_id, call_id)
        if self._stem is None or made_for != self._stem_of:
            fields = self._of(message_id)
            if call_id is not None:
                fields["tool_call_id"] = call_id
            self._stem, self._stem_of = DeltaStem(kind, fields), made_for
        return self._stem

    def _check_size(self, kind: str, value: Any) -> int:
        size = _size_of(value)
        if size > self._size_max:
            raise self._too_large(kind)
        return size

    def _too_large(self, kind: str) -> TooLarge:
        return TooLarge(
            f"The event {kind!r} is larger than {self._size_max} bytes (max_event_bytes).",
            code="event-too-large",
        )

    def _cut(self, words: str) -> str:
        return words[: min(_WORDS_CHARS_MAX, self._size_max // 8)]


_SAID_TOO_LATE = (
    "The agent said something after the results of other calls, while a call waits for an answer. "
    "Say it in the prompt, or before the calls."
)


def _asks(event: TerminalEvent) -> bool:
    return isinstance(event, Complete) and event.finish_reason == REASON_INPUT


def _size_of(value: Any) -> int:
    return len(encode(value))


def message_draft(message: Message, run_id: str | None = None) -> Draft:
    """Return the draft of a `message` event."""
    fields: dict[str, Any] = {"run_id": run_id} if run_id else {}
    return Draft("message", fields | {"message_id": message.id, "message": message.to_json()})


def _as_text(content: Any) -> str:
    return content if isinstance(content, str) else encode(content).decode()
