"""The fold from the events of one run to AG-UI's frames.

Each text and each piece of reasoning is opened once and closed by the message that has it whole. A
message says what its pieces have not said: a replay after compaction has no pieces at all. Each
call is shown whole when it is known, since its arguments' pieces come before its name.
"""

from typing import Any, Final
from zlib import crc32

from typing_extensions import override

from bamboo_gateway.domain.codec import decode, encode
from bamboo_gateway.domain.events import REASON_INPUT, TERMINAL_TYPES
from bamboo_gateway.domain.messages import Message
from bamboo_gateway.wires.ag_ui import frames
from bamboo_gateway.wires.ag_ui.messages import client_id, parts_of, reasoning_id
from bamboo_gateway.wires.ag_ui.protocol_events import PROTOCOL_EVENT, protocol_event
from bamboo_gateway.wires.ag_ui.requests import interrupt_of
from bamboo_gateway.wires.ag_ui.run_state import Closing, Part, Place, RunState, Unsettled
from bamboo_gateway.wires.folded_streams import (
    GOODBYE_LINE,
    PING_LINE,
    RESET_LINE,
    Fold,
    Folded,
)

_CONTENT: Final = b'"content":"'
_STEM: Final = b'"run_id":"%b","message_id":"%b","content":"'
_PREFIXES: Final = {"token": b'{"type":"token",', "thinking": b'{"type":"thinking",'}
_USAGE: Final = {
    "inputTokens": "prompt_tokens",
    "outputTokens": "completion_tokens",
    "totalTokens": "total_tokens",
    "reasoningTokens": "reasoning_tokens",
    "cachedInputTokens": "cached_tokens",
}


class RunFold(Fold[Place]):
    """The fold of the runs of one thread."""

    __slots__ = ("_thread_id",)

    def __init__(self, thread_id: str) -> None:
        self._thread_id = thread_id

    @override
    def feed(self, state: Place, lines: bytes) -> Folded[Place]:
        state, out, at = _further_pieces(state, lines)
        if at == len(lines):
            return Folded(b"".join(out), state)
        work = _Work(self._thread_id, state, out)
        while at < len(lines) and work.waits_for is None:
            end = lines.index(b"\n", at)
            if work.take(lines[at:end]):
                at = end + 1
        return Folded(b"".join(work.out), work.place(lines[at:]))

    @override
    def waits(self, state: Place) -> bool:
        return state.state.waits_for is not None


def _further_pieces(place: Place, lines: bytes) -> tuple[Place, list[bytes], int]:
    """Take the pieces that continue the present part; most lines are such.

    A text is used as it is encoded: it is the last member, behind ids, which have no quotation
    mark.

    Returns:
        The place behind them, their frames, and where the other lines begin.
    """
    state, size, digest = place
    out: list[bytes] = []
    at = 0
    part = state.part
    if part is None or not part.stem or state.waits_for is not None or state.has_ended:
        return place, out, 0
    prefix, stem, begin = _PREFIXES[part.kind], part.stem, part.begin
    while lines.startswith(prefix, at):
        end = lines.index(b"\n", at)
        text_at = lines.find(stem, at, end)
        if text_at < 0:
            break
        text = lines[text_at + len(stem) : end - 2]
        if text:
            size += len(text)
            digest = crc32(text, digest)
            out += (begin, text, frames.CONTENT_END)
        at = end + 1
    return (Place(state, size, digest) if out else place), out, at


class _Work:
    """A state that changes while lines are taken."""

    def __init__(self, thread_id: str, place: Place, out: list[bytes]) -> None:
        state, size, digest = place
        self.out = out
        self._thread_id = thread_id
        self._from = state
        self._run_id = state.run_id
        self._has_begun, self._has_ended = state.has_begun, state.has_ended
        self.waits_for = state.waits_for
        self._input_ids = state.input_ids
        self._closings = state.closings
        self._open_calls = state.open_calls
        self._results = state.results
        self._interrupts = state.interrupts
        self._steps = state.steps
        self._model = state.model
        self._is_stale = state.is_stale
        self._unsettled = state.unsettled
        self._stem = self._frame_begin = b""
        self._set_part(state.part, size, digest)

    def _set_part(self, part: Part | None, size: int = 0, digest: int = 0) -> None:
        self._size, self._digest = size, digest
        if part is None:
            self._message_id, self._kind, self._stem = "", "", b""
            return
        self._stem, self._frame_begin = part.stem, part.begin
        self._message_id, self._kind, self._number = part.message_id, part.kind, part.number
        self._text_is_open = part.text_is_open
        self._reasoning_is_open = part.reasoning_is_open
        self._calls = part.calls

    def place(self, rest: bytes) -> Place:
        """Return the place as it is now, with the lines that were not taken."""
        state = RunState(
            self._run_id,
            self._from.shows_earlier,
            self._from.is_over,
            self._has_begun,
            self._has_ended,
            self.waits_for,
            rest,
            self._input_ids,
            self._closings,
            self._present(),
            self._unsettled,
            self._open_calls,
            self._results,
            self._interrupts,
            self._steps,
            self._model,
            self._is_stale,
        )
        return Place(state, self._size, self._digest)

    def _present(self) -> Part | None:
        if not self._message_id:
            return None
        return Part(
            self._message_id,
            self._kind,
            self._number,
            self._text_is_open,
            self._reasoning_is_open,
            self._calls,
            self._stem,
            self._frame_begin,
        )

    @property
    def _name(self) -> str:
        """The id of what the present part is for the client: the message, or its reasoning."""
        if self._kind == "token":
            return self._message_id
        return reasoning_id(self._message_id, self._number)

    def take(self, line: bytes) -> bool:
        """Add the frames of a line. Return False when it has to be taken again, after a wait."""
        if line[:1] != b"{":
            self._control(line)
        elif self._has_ended:
            pass
        elif line.startswith(_PREFIXES["token"]):
            self._delta("token", line)
        elif line.startswith(_PREFIXES["thinking"]):
            self._delta("thinking", line)
        else:
            event = decode(line)
            is_last = event["type"] in TERMINAL_TYPES and event.get("run_id") == self._run_id
            if is_last and self._is_stale:
                self._close()
                self.waits_for = "all"
                return False
            self._event(event)
        return True

    def _control(self, line: bytes) -> None:
        if line[:1] == PING_LINE:
            self.out.append(frames.PING)
        elif not self._has_ended and line[:1] in (GOODBYE_LINE, RESET_LINE):
            self._has_ended = True
            reason: Any = line[1:].decode() if line[:1] == GOODBYE_LINE else "deleted"
            self.out.append(frames.goodbye(reason))

    # -- pieces -------------------------------------------------------------------------------

    def _delta(self, kind: str, line: bytes) -> None:
        """Add the frame of a piece."""
        if kind == self._kind and self._stem and (at := line.find(self._stem)) > 0:
            self._add(line[at + len(self._stem) : -2])
            return
        at = line.find(_CONTENT)
        run_id, message_id = _ids_of(line[:at]) if at > 0 and line.endswith(b'"}') else ("", "")
        if not message_id or run_id != self._run_id or not self._has_begun:
            return
        text = line[at + len(_CONTENT) : -2]
        if not text:
            return
        self._begin(message_id)
        self._say(kind, text)

    def _begin(self, message_id: str) -> None:
        """Go on with a message, which may have begun before."""
        if message_id == self._message_id:
            return
        self._close()
        for known in self._unsettled:
            if known.part.message_id == message_id:
                self._unsettled = tuple(one for one in self._unsettled if one is not known)
                self._set_part(*known)
                return
        self._set_part(Part(message_id))

    def _say(self, kind: str, text: bytes, role: str = "assistant") -> None:
        """Add text to the message that is being made."""
        if kind != self._kind:
            self._end_reasoning()
            self._kind, self._number, self._size, self._stem = kind, self._number + 1, 0, b""
            self._digest = crc32(kind.encode(), self._digest)
        if kind == "token":
            if not self._text_is_open:
                self._text_is_open = True
                self.out.append(frames.message_start(self._message_id, role))
        elif not self._reasoning_is_open:
            self._reasoning_is_open = True
            self.out.append(frames.reasoning_start(self._name))
        if not self._stem:
            self._stem = _STEM % (str(self._run_id).encode(), self._message_id.encode())
            self._frame_begin = frames.content_begin(kind, self._name)
        self._add(text)

    def _add(self, text: bytes) -> None:
        if text:
            self._size += len(text)
            self._digest = crc32(text, self._digest)
            self.out += (self._frame_begin, text, frames.CONTENT_END)

    def _end_reasoning(self) -> None:
        if self._message_id and self._reasoning_is_open:
            self._reasoning_is_open, self._stem = False, b""
            self.out.append(frames.reasoning_end(self._name))

    def _close(self, *, is_whole: bool = False) -> None:
        """Close what is open of the message that is being made.

        A message that waits for results comes whole behind them, and other messages in between.
        """
        if not self._message_id:
            return
        self._end_reasoning()
        if self._text_is_open:
            self._text_is_open, self._stem = False, b""
            self.out.append(frames.message_end(self._message_id))
        part = self._present()
        if part is not None and not is_whole:
            self._unsettled = (*self._unsettled, Unsettled(part, self._size, self._digest))
        self._set_part(None)

    # -- other events -------------------------------------------------------------------------

    def _event(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        if not self._has_begun:
            self._before(kind, event)
            return
        if event.get("run_id") != self._run_id:
            return
        match kind:
            case "message":
                self._message(event["message"])
            case "tool_start":
                self._tool_start(event)
            case "tool_delta":
                if event["tool_call_id"] in self._open_calls:
                    value = {"toolCallId": event["tool_call_id"], "delta": event["content"]}
                    self.out.append(frames.custom("tool_output", value))
            case "tool_complete":
                self._tool_result(event, event["result"]["content"])
            case "tool_error":
                self._tool_result(event, event["error"])
            case "custom":
                self._custom(event["name"], event["value"])
            case "input_required":
                self._interrupts = (*self._interrupts, encode(interrupt_of(event)))
            case "complete" | "error" | "cancelled":
                self._terminal(kind, event)
            case _:
                pass

    def _before(self, kind: str, event: dict[str, Any]) -> None:
        """Take an event before the run's begin."""
        run_id = event.get("run_id")
        is_meant = self._run_id is None or run_id == self._run_id
        if kind == "message" and (is_meant or run_id is None):
            self._close_call(event["message"])
        elif kind == "run_start" and is_meant:
            self._run_started(event)
        elif kind in ("complete", "error", "cancelled") and run_id == self._run_id:
            # It waited, and never began.
            self._has_begun = True
            self.out.append(frames.run_started(self._thread_id, str(run_id)))
            self._terminal(kind, event)

    def _close_call(self, message: dict[str, Any]) -> None:
        """Take note of a call that is closed without a result before the run begins."""
        if message["role"] == "tool" and message["metadata"].get("closed"):
            words = Message.text_of(message["content"])
            closing = Closing(client_id(message), message["tool_call_id"], words)
            self._closings = (*self._closings, closing)

    def _run_started(self, event: dict[str, Any]) -> None:
        self._has_begun = True
        self._run_id = run_id = event["run_id"]
        self._model = event.get("model")
        self._open_calls = tuple(event.get("tool_call_ids") or ())
        self.out.append(frames.run_started(self._thread_id, run_id))
        self._input_ids = tuple(event.get("message_ids") or ())
        if self._from.shows_earlier:
            self.waits_for = "earlier"
        else:
            self.out += (frames.tool_result(*closing) for closing in self._closings)
        self._closings = ()

    def _tool_start(self, event: dict[str, Any]) -> None:
        call_id = event["tool_call_id"]
        if call_id in self._open_calls:
            return  # it goes on, and its arguments were shown
        if self._from.is_over:
            return
        self._begin(event["message_id"])
        self._end_reasoning()
        self._show_call(call_id, event["tool_name"], event["arguments"])

    def _show_call(self, call_id: str, name: str, arguments: Any) -> None:
        self._calls = (*self._calls, call_id)
        self._open_calls = (*self._open_calls, call_id)
        self.out.append(frames.tool_call(call_id, name, arguments, self._message_id))

    def _tool_result(self, event: dict[str, Any], content: Any) -> None:
        text = content if isinstance(content, str) else encode(content).decode()
        self._results = (*self._results, event["tool_call_id"])
        self._result(event["message_id"], event["tool_call_id"], text)

    def _result(self, message_id: str, call_id: str, content: Any) -> None:
        self._close()
        self._open_calls = tuple(one for one in self._open_calls if one != call_id)
        self.out.append(frames.tool_result(message_id, call_id, content))

    def _message(self, message: dict[str, Any]) -> None:
        """Take a whole message: say what was not said of it, and close it."""
        role = message["role"]
        if role == "tool":
            call_id = message["tool_call_id"]
            if call_id in self._results:
                self._results = tuple(one for one in self._results if one != call_id)
            else:
                self._result(client_id(message), call_id, Message.text_of(message["content"]))
            return
        if role != "assistant":
            self._close()
            self._set_part(Part(client_id(message)))
            self._rest(parts_of(message["content"]), role)
            self._close(is_whole=True)
            return
        self._begin(message["id"])
        self._rest(parts_of(message["content"]))
        for call in message.get("tool_calls") or ():
            if call["id"] not in self._calls:
                self._show_call(call["id"], call["name"], call["arguments"])
        self._close(is_whole=True)

    def _rest(self, parts: list[tuple[str, str]], role: str = "assistant") -> None:
        """Say what was not said of a message's text and reasoning."""
        encoded = [(kind, encode(text)[1:-1]) for kind, text in parts]
        first = max(self._number, 0)
        digest = 0
        for number, (kind, text) in enumerate(encoded[: self._number + 1]):
            said = text if number < self._number else text[: self._size]
            digest = crc32(said, crc32(kind.encode(), digest))
        fits = self._number < len(encoded) and digest == self._digest
        if not fits:
            # The agent has said something else in the end. Only a snapshot can correct it.
            self._is_stale = True
            return
        for number, (kind, text) in enumerate(encoded[first:], first):
            rest = text[self._size :] if number == self._number else text
            if rest:
                self._say(kind, rest, role)

    def _custom(self, name: str, value: Any) -> None:
        shown = protocol_event(value) if name == PROTOCOL_EVENT else None
        if shown is None:
            self.out.append(frames.custom(name, value))
            return
        step = shown.get("stepName")
        if shown["type"] == "STEP_STARTED":
            if step in self._steps:
                return
            self._steps = (*self._steps, str(step))
        elif shown["type"] == "STEP_FINISHED":
            if step not in self._steps:
                return
            self._steps = tuple(one for one in self._steps if one != step)
        self.out.append(frames.frame(shown))

    # -- the end ------------------------------------------------------------------------------

    def _terminal(self, kind: str, event: dict[str, Any]) -> None:
        self._close()
        for step in reversed(self._steps):
            self.out.append(frames.frame({"type": "STEP_FINISHED", "stepName": step}))
        self._steps = ()
        self._has_ended = True
        self.out.append(self._last(kind, event))

    def _last(self, kind: str, event: dict[str, Any]) -> bytes:
        run_id = event["run_id"]
        if kind == "error":
            return frames.run_error(event["message"], event["code"])
        if kind == "cancelled":
            return frames.run_finished(self._thread_id, run_id, {"type": "cancelled"})
        usage = None
        if counted := event.get("usage"):
            usage = frames.present({"model": event.get("model") or self._model})
            usage |= {name: counted[ours] for name, ours in _USAGE.items() if counted.get(ours)}
        outcome: dict[str, Any] = {"type": "success"}
        if event["finish_reason"] == REASON_INPUT and self._interrupts:
            outcome = {"type": "interrupt", "interrupts": [decode(one) for one in self._interrupts]}
        elif self._open_calls:
            outcome["pendingToolCallIds"] = list(self._open_calls)
        return frames.run_finished(self._thread_id, run_id, outcome, usage)


def _ids_of(head: bytes) -> tuple[str, str]:
    """Return the run and the message of a delta, from what is before its text."""
    _, run, rest = head.partition(b'"run_id":"')
    run_id, _, rest = rest.partition(b'"')
    _, message, rest = rest.partition(b'"message_id":"')
    if not run or not message:
        return "", ""
    return run_id.decode(), rest.partition(b'"')[0].decode()
