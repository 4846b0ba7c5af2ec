"""The events of a run, one after the other, and the frames that each becomes.

A delta becomes one frame. What comes before it (`start`, `start-step`, the end of another text)
depends on the events before.
"""

from collections.abc import Mapping
from typing import Any, Final

from bamboo_gateway.domain.codec import decode, encode
from bamboo_gateway.wires.ai_sdk import parts
from bamboo_gateway.wires.ai_sdk.run_state import Hot, Run, RunState, Said
from bamboo_gateway.wires.ai_sdk.ui_messages import is_approval, is_denied
from bamboo_gateway.wires.places import Texts, joined

_NOTHING: Final = b""
_KINDS: Final = {b"token": b"text", b"thinking": b"reasoning"}


class RunEvents:
    """A state that changes while events are taken."""

    def __init__(self, run: Run, state: RunState, texts: Texts) -> None:
        self.texts = texts
        self._run = run
        self._version = run.version
        self._has_begun = state.has_begun
        self._started = state.started
        self._held = list(state.held)
        self._step = state.step
        self._text = state.text
        self._hot = state.hot
        self._said = dict(state.said)
        self._calls = set(state.calls)
        self._results = set(state.results)
        self._approved = list(state.approved)
        self._denied = set(state.denied)
        self._requests = dict(state.requests)

    def state(self) -> RunState:
        """Return the state as it is now."""
        return RunState(
            self._has_begun,
            self._started,
            tuple(self._held),
            self._step,
            self._text,
            self._hot,
            self._said,
            frozenset(self._calls),
            frozenset(self._results),
            tuple(self._approved),
            frozenset(self._denied),
            self._requests,
        )

    def take(self, lines: bytes, at: int, out: list[bytes]) -> None:
        """Add the frames of lines."""
        run = self._run
        while at < len(lines):
            end = lines.index(b"\n", at)
            body = lines[at:end]
            if (delta := run.delta.fullmatch(body)) is not None:
                kind, message_id, text = _KINDS[delta[1]], delta[2], delta[3]
                if self._text != (kind, message_id):
                    out.append(self._begin_text(kind, message_id))
                self.texts = (self.texts, text)
                out.append(parts.text_delta(kind, message_id, b'"%b"' % text))
            elif run.named in body:
                out.append(self._other(body))
            at = end + 1
            if self._hot is not None:
                at, self.texts = self._hot.take(lines, at, self.texts, out)

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
        self._text = (kind, message_id)
        event = b"token" if kind == b"text" else b"thinking"
        self._hot = Hot(
            b'{"type":"%b","seq":' % event,
            b'%b,"message_id":"%b","content":' % (self._run.named, message_id),
            b'data: {"type":"%b-delta","id":"%b","delta":' % (kind, message_id),
        )
        return frames + parts.text_start(kind, message_id)

    def _end_text(self) -> bytes:
        if self._text is None:
            return _NOTHING
        kind, message_id = self._text
        self._said[message_id] = self._said_of(message_id)
        self._drop_text()
        return parts.text_end(kind, message_id)

    def _drop_text(self) -> None:
        self._text = self._hot = self.texts = None

    def _said_of(self, message_id: bytes) -> Said:
        """Return what deltas have said of a message."""
        said = self._said.get(message_id, ())
        if self._text is not None and self._text[1] == message_id:
            return (*said, (self._text[0], self.texts))
        return said

    # -- events that are no deltas --------------------------------------------------------------

    def _other(self, body: bytes) -> bytes:
        event = decode(body)
        if event.get("run_id") != self._run.run_id:
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
        shown = self._said_of(message_id)
        frames = self._begin_step(message_id) if not shown else _NOTHING
        calls: list[dict[str, Any]] = message.get("tool_calls") or []
        content = parts.content_parts(message.get("content"))
        missing = _missing(shown, content)
        if missing is None:
            # What the agent says at the end is not what it said on the way.
            missing = [], b""
            if self._version.has_responses and self._step == message_id:
                self._drop_text()
                frames += parts.RESET_STEP
                frames += b"".join(map(parts.input_frame, calls))
                missing = content, b""
        rest, more = missing
        if more and self._text is not None:
            frames += parts.text_delta(*self._text, b'"%b"' % more)
        if self._step == message_id:
            frames += self._end_text()
            frames += b"".join(self._whole(part, message_id) for part in rest)
        self._said.pop(message_id, None)
        new = [call for call in calls if call["id"] not in self._calls]
        self._calls |= {call["id"] for call in new}
        return frames + b"".join(map(parts.input_frame, new))

    def _whole(self, part: Mapping[str, Any], message_id: bytes) -> bytes:
        if part.get("type") in parts.KINDS:
            kind = parts.KINDS[part["type"]]
            return parts.whole_text(kind, message_id, encode(part["text"]))
        file = parts.file_part(part, self._run.prefix)
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
            parts.input_frame(parts.call_of(self._run.calls[call_id]))
            for call_id in self._approved
            if call_id in self._run.calls and call_id not in self._results
        )


def _missing(
    shown: Said, content: list[dict[str, Any]]
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
        text, said = encode(part["text"])[1:-1], joined(texts)
        if text != said:
            if number < len(shown) or not text.startswith(said):
                return None
            more = text[len(said) :]
    return content[len(shown) :], more
