"""The frames of one run: a fold over its events.

A delta becomes one frame. What comes before it (`start`, `start-step`, the end of another text)
depends on the events before. The fold keeps such frames, so that a reader which comes later gets
the same ones without a fold of its own: all readers of a run share one, and the event queue shares
what it renders.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from bamboo_gateway.domain.codec import decode, encode
from bamboo_gateway.wires.ai_sdk import parts
from bamboo_gateway.wires.ai_sdk.ui_messages import UiMessages, is_approval, is_denied
from bamboo_gateway.wires.ai_sdk.versions import Version

KEPT_BYTES_MAX: Final = 4 * 1024 * 1024
"""The most bytes of frames that a fold keeps for readers that come later. Deltas count nothing but
their text's begin. A reader that is further behind is told to load the messages again."""

_NOTHING: Final = b""
_KINDS: Final = {b"token": b"text", b"thinking": b"reasoning"}


_NO_TEXT: Final = (b"\0", b"", b"")
"""In the place of what the deltas of an open text begin with, have in common, and become."""

_STEM_FROM: Final = 20
_STEM_TO: Final = 100
"""Where a delta has what follows its seq and time, by far."""


@dataclass(frozen=True, slots=True)
class Begin:
    """What the UI message has before the run.

    Attributes:
        message_id: Its id; None when the run begins it.
        calls: Its tool calls, each as its part.
        requests: Its open requests for input, with the call that each is about, or "".
        denied: The calls whose approval was denied.
    """

    message_id: str | None = None
    calls: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    requests: Mapping[str, str] = field(default_factory=dict)
    denied: frozenset[str] = frozenset()

    @staticmethod
    def of(ui: UiMessages) -> "Begin":
        """Return where a run goes on with the assistant's message at the end, if there is one."""
        if ui.assistant is None:
            return Begin()
        return Begin(
            ui.assistant["id"],
            dict(ui.calls),
            {name: asked.get("tool_call_id") or "" for name, asked in ui.requests.items()},
            frozenset(call_id for call_id, answer in ui.answers.items() if is_denied(answer)),
        )


class RunFrames:
    """Renders the events of one run, from its begin on.

    Args:
        run_id: The run.
        version: The clients' version.
        begin: What the UI message has before the run.
        prefix: The path prefix in the URLs of files.

    Attributes:
        has_forgotten: Whether it cannot render the run from its begin any more.
    """

    def __init__(self, run_id: str, version: Version, begin: Begin, prefix: str) -> None:
        self.has_forgotten = False
        self._version = version
        self._prefix = prefix
        self._run_id = run_id
        self._named = b'"run_id":%b' % encode(run_id)
        self._delta = re.compile(
            rb'\{"type":"(token|thinking)","seq":[0-9]+,"time":"[^"]*",%b,'
            rb'"message_id":"([^"\\]*)","content":(.*)\}' % re.escape(self._named),
            re.DOTALL,
        )
        self._seq = self._forgotten = self._kept_bytes = 0
        self._kept: dict[int, bytes] = {}
        # What the frames so far have made of the message: the open step and text are named by their
        # message. `_said` has the texts of messages that are not in the log yet.
        self._has_begun = False
        self._started = begin.message_id is not None
        self._held: list[dict[str, Any]] = []
        self._step: bytes | None = None
        self._text: tuple[bytes, bytes] | None = None
        self._texts: list[bytes] = []
        self._goes_on = _NO_TEXT
        self._said: dict[bytes, list[tuple[bytes, list[bytes]]]] = {}
        self._calls = set(begin.calls)
        self._earlier = begin.calls
        self._approved: list[str] = []
        self._results: set[str] = set()
        self._requests = dict(begin.requests)
        self._denied = set(begin.denied)

    def event(self, epoch: int, seq: int, body: bytes, /) -> bytes:
        """Return the frames of an event; empty for one of another run.

        New events come in the order of the log. Earlier ones may come again; one that was rendered
        too long ago ends the reader's stream.
        """
        del epoch
        if seq > self._seq and body.startswith(self._goes_on[0]):
            # Most events: the open text goes on. Its members are where they are in each delta.
            _, stem, frame = self._goes_on
            at = body.find(stem, _STEM_FROM, _STEM_TO + len(stem))
            if at > 0:
                self._seq = seq
                text = body[at + len(stem) :]
                self._texts.append(text[1:-2])
                return b"%b%b\n\n" % (frame, text)
        delta = self._delta.fullmatch(body)
        if seq <= self._seq:
            return self._again(seq, delta)
        self._seq = seq
        if delta is None:
            frames = self._other(body) if self._named in body else _NOTHING
            self._keep(seq, frames)
            return frames
        kind, message_id, text = _KINDS[delta[1]], delta[2], delta[3]
        before = _NOTHING
        if self._text != (kind, message_id):
            before = self._begin_text(kind, message_id)
            self._keep(seq, before)
        self._texts.append(text[1:-1])
        return before + parts.text_delta(kind, message_id, text)

    def _again(self, seq: int, delta: re.Match[bytes] | None) -> bytes:
        if seq <= self._forgotten:
            return parts.LOST
        kept = self._kept.get(seq, _NOTHING)
        if delta is None:
            return kept
        return kept + parts.text_delta(_KINDS[delta[1]], delta[2], delta[3])

    def _keep(self, seq: int, frames: bytes) -> None:
        if not frames:
            return
        self._kept[seq] = frames
        self._kept_bytes += len(frames)
        if self._kept_bytes > KEPT_BYTES_MAX:
            self.has_forgotten = True
            while self._kept_bytes > KEPT_BYTES_MAX // 2:
                self._forgotten = next(iter(self._kept))
                self._kept_bytes -= len(self._kept.pop(self._forgotten))

    # -- steps and texts ------------------------------------------------------------------------

    def _begin_step(self, message_id: bytes) -> bytes:
        """Begin the step of a message of the gateway, unless it is the open one."""
        if self._step == message_id:
            return _NOTHING
        frames = self._end_step()
        if not self._started:
            self._started = True
            frames += parts.start(message_id.decode())
        self._step = message_id
        held, self._held = self._held, []
        return frames + parts.START_STEP + b"".join(map(parts.frame, held))

    def _end_step(self) -> bytes:
        frames = self._end_text()
        if self._step is not None:
            self._step = None
            frames += parts.FINISH_STEP
        return frames

    def _begin_text(self, kind: bytes, message_id: bytes) -> bytes:
        frames = self._begin_step(message_id) + self._end_text()
        self._text, self._texts = (kind, message_id), []
        self._said.setdefault(message_id, []).append((kind, self._texts))
        event = b"token" if kind == b"text" else b"thinking"
        self._goes_on = (
            b'{"type":"%b","seq":' % event,
            b'%b,"message_id":"%b","content":' % (self._named, message_id),
            b'data: {"type":"%b-delta","id":"%b","delta":' % (kind, message_id),
        )
        return frames + parts.text_start(kind, message_id)

    def _end_text(self) -> bytes:
        text, self._text, self._goes_on = self._text, None, _NO_TEXT
        return parts.text_end(*text) if text is not None else _NOTHING

    # -- events that are no deltas --------------------------------------------------------------

    def _other(self, body: bytes) -> bytes:
        event = decode(body)
        if event.get("run_id") != self._run_id:
            return _NOTHING
        match event["type"]:
            case "run_start":
                self._has_begun = True
                return _NOTHING
            case "message":
                return self._message(event)
            case "tool_start":
                call_id = event["tool_call_id"]
                call = {"id": call_id, "name": event["tool_name"], "arguments": event["arguments"]}
                return self._call(call, event["message_id"].encode())
            case "tool_complete" | "tool_error":
                return self._result(event["tool_call_id"], event)
            case "custom":
                return self._data(parts.data_part(event["name"], event.get("value")))
            case "input_required":
                return self._asked(event)
            case "input_given":
                return self._answered(event)
            case "complete" | "error" | "cancelled":
                return self._end(event)
            case _:
                return _NOTHING

    def _call(self, call: Mapping[str, Any], message_id: bytes) -> bytes:
        if call["id"] in self._calls:  # said again, the first time counts
            return _NOTHING
        self._calls.add(call["id"])
        return self._begin_step(message_id) + parts.input_frame(call)

    def _result(self, call_id: str, event: Mapping[str, Any]) -> bytes:
        # A tool message of an earlier UI message closes a call that this one does not have.
        if call_id not in self._calls or call_id in self._results:
            return _NOTHING
        self._results.add(call_id)
        output = parts.output_of(event)
        if call_id in self._denied and output["state"] == "output-error":
            output = {"state": "output-denied"} if self._version.has_approvals else output
        return parts.output_frame(call_id, output)

    def _data(self, part: dict[str, Any]) -> bytes:
        if self._started:
            return parts.frame(part)
        # The client would make a message with an id of its own.
        self._held.append(part)
        return _NOTHING

    def _asked(self, event: Mapping[str, Any]) -> bytes:
        call_id = event.get("tool_call_id") or ""
        self._requests[event["request_id"]] = call_id
        if is_approval(event, self._version) and call_id in self._calls:
            return parts.approval_frame(event["request_id"], call_id)
        return self._data(parts.request_part(event))

    def _answered(self, event: Mapping[str, Any]) -> bytes:
        call_id, answer = self._requests.get(event["request_id"]), event.get("answer")
        if not call_id or call_id not in self._calls:
            return _NOTHING
        if is_denied(answer):
            self._denied.add(call_id)
        else:
            self._approved.append(call_id)
        if self._version.has_responses and isinstance(answer, dict) and "approved" in answer:
            return parts.approved_frame(event["request_id"], answer)
        return _NOTHING

    def _message(self, event: Mapping[str, Any]) -> bytes:
        message = event["message"]
        if message["role"] == "tool":
            return self._result(message.get("tool_call_id") or "", event)
        if message["role"] != "assistant" or not self._has_begun:
            # Before `run_start` comes the input; a new session's may have answers, which the client
            # has sent itself.
            return _NOTHING
        message_id = message["id"].encode()
        frames = self._begin_step(message_id) if message_id not in self._said else _NOTHING
        calls: list[dict[str, Any]] = message.get("tool_calls") or []
        content = parts.content_parts(message.get("content"))
        shown = self._said.pop(message_id, [])
        missing = _missing(shown, content)
        if missing is None:
            # What the agent says at the end is not what it said on the way.
            missing = [], b""
            if self._version.has_responses and self._step == message_id:
                self._text, self._goes_on = None, _NO_TEXT
                frames += parts.RESET_STEP
                frames += b"".join(map(parts.input_frame, calls))
                missing = content, b""
        rest, more = missing
        if more and self._text is not None:
            frames += parts.text_delta(*self._text, b'"%b"' % more)
        if self._step == message_id:
            frames += self._end_text()
            frames += b"".join(self._whole(part, message_id) for part in rest)
        new = [call for call in calls if call["id"] not in self._calls]
        self._calls |= {call["id"] for call in new}
        return frames + b"".join(map(parts.input_frame, new))

    def _whole(self, part: Mapping[str, Any], message_id: bytes) -> bytes:
        if part.get("type") in parts.KINDS:
            kind = parts.KINDS[part["type"]]
            return parts.whole_text(kind, message_id, encode(part["text"]))
        file = parts.file_part(part, self._prefix)
        return parts.file_frame(file) if file is not None else _NOTHING

    def _end(self, event: Mapping[str, Any]) -> bytes:
        frames = self._end_step()
        if not self._started:
            # There is no message: at a `start` some clients would make an empty one.
            frames = b"".join(parts.frame(part | {"transient": True}) for part in self._held)
        match event["type"]:
            case "complete":
                reason = event.get("finish_reason") or "stop"
                if reason == "tool_calls":
                    frames += self._left_to_client()
                frames += parts.finish(self._version, reason)
            case "cancelled":
                frames += parts.abort(self._version, event.get("reason") or "cancelled")
            case _:
                frames += parts.error(event.get("message") or "The run failed.")
        return frames + parts.DONE

    def _left_to_client(self) -> bytes:
        """Return the frames that let the client run the calls that were approved."""
        return b"".join(
            parts.input_frame(parts.call_of(self._earlier[call_id]))
            for call_id in self._approved
            if call_id in self._earlier and call_id not in self._results
        )


def _missing(
    shown: list[tuple[bytes, list[bytes]]], content: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], bytes] | None:
    """Return what of a message its deltas have not shown: whole parts, and the rest of a text.

    None: they have shown something else.
    """
    if len(shown) > len(content):
        return None
    more = b""
    for number, ((kind, texts), part) in enumerate(zip(shown, content, strict=False), 1):
        if parts.KINDS.get(part.get("type", "")) != kind:
            return None
        text, said = encode(part["text"])[1:-1], b"".join(texts)
        if text != said:
            if number < len(shown) or not text.startswith(said):
                return None
            more = text[len(said) :]
    return content[len(shown) :], more
