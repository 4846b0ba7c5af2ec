"""The frames of one response, made of the events of its run.

A run's events are read in the order of the log, from its first one on. Each becomes no frame or
several. `sequence_number` is made of the place of the event behind the run's begin: `place * 10000`
and the number of the frame among those of the event. Of a message the first half of these numbers
are for items that deltas would have shown before. So a number means the same for ever, whoever
reads the response, and whatever compaction has removed.

Deltas open an item, and the `message` that replaces them closes it. A message whose deltas are gone
(compaction), or that an agent has said as a whole, is shown as an item with one delta. A reader who
comes back to a place inside of what is gone has seen its begin, and gets its end alone.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from bamboo_gateway.domain.codec import decode, encode
from bamboo_gateway.domain.events import TERMINAL_TYPES
from bamboo_gateway.wires.openai.ids import call_id, reasoning_id, text_id
from bamboo_gateway.wires.openai.items import (
    Item,
    Results,
    approval,
    arguments_text,
    call_output,
    function_call,
    output_text,
    placed_items,
    reasoning_item,
    summary_text,
    text_item,
    tool_run,
)

FRAMES_PER_EVENT: Final = 10_000
"""The numbers that one event has. The last one is given to all frames beyond: only a message with
thousands of parts has so many, and `response.completed` has all of it again."""

_DELTA: Final = re.compile(
    rb'\{"type":"(token|thinking)","seq":([0-9]+),"time":"[^"]*",'
    rb'("run_id":"([^"]*)","message_id":"([^"]*)"),"content":(".*")\}',
    re.DOTALL,
)
_TERMINAL: Final = re.compile(rb'\{"type":"(?:%b)"' % "|".join(TERMINAL_TYPES).encode())


def is_terminal(line: bytes) -> bool:
    """Return whether a line is the end of a run."""
    return _TERMINAL.match(line) is not None


@dataclass(slots=True)
class _Part:
    """A text or a reasoning whose deltas arrive; `texts` are their JSON, with quotation marks."""

    kind: str
    item_id: str
    index: int
    texts: list[bytes] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(map(decode, self.texts))


@dataclass(slots=True)
class _Message:
    """What was shown of a message that is being made."""

    places: int = 0
    calls: int = 0
    open: _Part | None = None


@dataclass(slots=True)
class _Call:
    """A tool call that was shown."""

    item_id: str
    index: int
    call: Mapping[str, Any]
    is_client: bool
    is_done: bool = False


class ResponseFrames:
    """Makes the frames of one response for one reader.

    Args:
        run_id: The run.
        begin: The seq just before its first event.
        after: Frames up to this number are left out; -1: none.
        label: The agent.
        tools: The names of the client's tools.
        shown: Returns the Response with a status, for the frames that a response begins with.

    Attributes:
        run_id: The run.
        number: The number of the last frame, also of one that was left out.
    """

    def __init__(
        self,
        run_id: str,
        begin: int,
        after: int,
        label: str,
        tools: Collection[str],
        shown: Callable[[str], Mapping[str, Any]],
    ) -> None:
        self.number = -1
        self.run_id = run_id
        self._begin = begin
        self._after = after
        self._label = label
        self._tools = tools
        self._shown = shown
        self._seq = begin
        self._out: list[bytes] = []
        self._indexes: dict[str, int] = {}
        self._messages: dict[str, _Message] = {}
        self._calls: dict[str, _Call] = {}
        self._is_inside = False
        self._boundary = -1
        self._last_number = 0
        # Of the last delta: the begin of its line, its ids, its part, its frame around the number.
        self._hot_begin = self._hot_stem = b""
        self._hot_part: _Part | None = None
        self._hot_frame: tuple[bytes, bytes] = (b"", b"")

    def feed(self, line: bytes) -> None:
        """Take the next event of the session's log; those of other runs say nothing."""
        part, begin = self._hot_part, self._hot_begin
        if part is not None and line.startswith(begin):
            # The text of a JSON string cannot hold the stem: its quotation marks are escaped.
            stem = self._hot_stem
            if (at := line.find(stem)) > 0:
                seq = int(line[len(begin) : line.index(b",", len(begin))])
                if seq > self._seq:
                    self._seq = seq
                    content = line[at + len(stem) : -1]
                    part.texts.append(content)
                    self.number = number = (seq - self._begin) * FRAMES_PER_EVENT
                    if number > self._after:
                        before, behind = self._hot_frame
                        self._out.append(b"%b%d%b%b}\n\n" % (before, number, behind, content))
                return
        found = _DELTA.fullmatch(line)
        if found is not None:
            seq = int(found[2])
            if seq > self._seq:
                self._first_delta(found, seq)
            return
        event = decode(line)
        if event["seq"] <= self._seq:
            return
        self._seq = event["seq"]
        if event.get("run_id") == self.run_id:
            self._event(event)

    def end(self, line: bytes, kind: str, response: Mapping[str, Any]) -> None:
        """Take the terminal event of the run: the response is in the last frame."""
        seq = decode(line)["seq"]
        if seq <= self._seq:
            return
        self._seq = seq
        self._begin_frames()
        for message in self._messages.values():
            if message.open is not None:
                self._close(message.open)
        for call in self._calls.values():
            if not call.is_done:
                item = tool_run(call.item_id, call.call, self._label, "incomplete")
                self._frame("response.output_item.done", output_index=call.index, item=item)
        indexes, last = self._indexes, len(self._indexes)
        output = sorted(response["output"], key=lambda item: indexes.get(item["id"], last))
        self._frame(f"response.{kind}", response={**response, "output": output})

    def fail(self, code: str, words: str) -> None:
        """Say that the stream ends before the response does."""
        event = {
            "type": "error",
            "sequence_number": max(self.number, self._after, 0),
            "code": code,
            "message": words,
            "param": None,
        }
        self._out.append(b"event: error\ndata: %b\n\n" % encode(event))

    def taken(self) -> bytes:
        """Return the frames since the last call."""
        out = b"".join(self._out)
        self._out.clear()
        return out

    # -- events -------------------------------------------------------------------------------

    def _event(self, event: Mapping[str, Any]) -> None:
        before = self.number
        self._begin_frames()
        self._hot_part = None
        match event["type"]:
            case "run_queued":
                self._lifecycle("queued", "created", "queued")
            case "run_start":
                names = ("created", "in_progress") if before < 0 else ("in_progress",)
                self._lifecycle("in_progress", *names)
            case "tool_start":
                self._tool_start(event)
            case "tool_complete":
                content = event["result"]["content"]
                text = content if isinstance(content, str) else encode(content).decode()
                self._result(event["tool_call_id"], event["message_id"], text)
            case "tool_error":
                self._result(event["tool_call_id"], event["message_id"], None, event["error"])
            case "message":
                self._said(event["message"])
            case "input_required":
                shown = self._calls.get(event.get("tool_call_id", ""))
                about = shown.call if shown is not None else None
                self._whole(approval(event, self._label, about))
            case _:
                pass
        if self.number < self._last_number - FRAMES_PER_EVENT + 1:
            self.number = before  # it has no frame
        if event["type"] in _BOUNDARIES:
            self._boundary = self.number

    def _lifecycle(self, status: str, *names: str) -> None:
        for name in names:
            self._frame(f"response.{name}", response=self._shown(status))

    def _tool_start(self, event: Mapping[str, Any]) -> None:
        message = self._message_of(event["message_id"])
        name = event["tool_call_id"]
        call = {"id": name, "name": event["tool_name"], "arguments": event["arguments"]}
        if name not in self._calls:
            self._call(event["message_id"], message.calls, call)
            message.calls += 1

    def _begin_frames(self) -> None:
        first = (self._seq - self._begin) * FRAMES_PER_EVENT
        # A message whose deltas are gone began behind the boundary. So did a reader who is there.
        self._is_inside = self._boundary < self._after < first
        self._last_number = first + FRAMES_PER_EVENT - 1
        self.number = first - 1

    def _first_delta(self, found: re.Match[bytes], seq: int) -> None:
        kind, stem, run_id, message_id, content = found.group(1, 3, 4, 5, 6)
        self._seq = seq
        if run_id.decode() != self.run_id:
            return
        self._begin_frames()
        self._is_inside = False
        name = message_id.decode()
        message = self._message_of(name)
        part = message.open
        if part is not None and part.kind != kind.decode():
            self._close(part)
            message.open = part = None
        if part is None:
            part = message.open = self._open(name, message.places, kind.decode())
            message.places += 1
        part.texts.append(content)
        event = _DELTAS[part.kind]
        ids = encode({"item_id": part.item_id, "output_index": part.index})[1:-1]
        before = b'event: %b\ndata: {"type":"%b","sequence_number":' % (event, event)
        behind = b",%b,%b," % (ids, _PLACES[part.kind]) + b'"delta":'
        self._hot_begin = b'{"type":"%b","seq":' % kind
        self._hot_stem = b'%b,"content":' % stem
        self._hot_part, self._hot_frame = part, (before, behind)
        self.number = min(self.number + 1, self._last_number)
        if self.number > self._after:
            self._out.append(b"%b%d%b%b}\n\n" % (before, self.number, behind, content))

    def _said(self, said: Mapping[str, Any]) -> None:
        """Take an authoritative message: what its deltas have opened is closed by it."""
        if said["role"] == "tool":
            text = said["content"] if isinstance(said["content"], str) else None
            self._result(said["tool_call_id"], said["id"], text)
        if said["role"] != "assistant" or said.get("run_id") != self.run_id:
            return
        message = self._messages.pop(said["id"], None) or _Message()
        if message.places:
            self._is_inside = False  # its deltas are there
        part = message.open
        # What deltas would have opened, and closed, before this event is numbered first.
        end = self._last_number
        self._last_number = behind = end - FRAMES_PER_EVENT // 2
        items = [
            placed.item
            for placed in placed_items(said, self._tools, self._label, Results(()))
            if placed.kind != "call"
        ]
        last: _Part | None = None
        for item in items:
            if item["id"] not in self._indexes:
                if last is not None:
                    self._close(last)
                last = self._shown_whole(item)
        self._last_number, self.number = end, behind
        if part is not None:
            final = next((item for item in items if item["id"] == part.item_id), None)
            self._close(part, final)
        if last is not None:
            self._close(last, items[-1] if items[-1]["id"] == last.item_id else None)
        for place, call in enumerate(said.get("tool_calls") or ()):
            if call["id"] not in self._calls:
                self._call(said["id"], place, call)

    def _message_of(self, message_id: str) -> _Message:
        return self._messages.setdefault(message_id, _Message())

    # -- items --------------------------------------------------------------------------------

    def _index(self, item_id: str) -> int:
        return self._indexes.setdefault(item_id, len(self._indexes))

    def _open(self, message_id: str, place: int, kind: str) -> _Part:
        is_text = kind == "token"
        item_id = (text_id if is_text else reasoning_id)(message_id, place)
        part = _Part(kind, item_id, self._index(item_id))
        item = text_item(item_id, "", "in_progress") if is_text else reasoning_item(item_id, "")
        item["content" if is_text else "summary"] = []
        self._frame("response.output_item.added", opens=True, output_index=part.index, item=item)
        at: dict[str, Any] = {"item_id": item_id, "output_index": part.index}
        if is_text:
            self._frame(
                "response.content_part.added",
                opens=True,
                **at,
                content_index=0,
                part=output_text(""),
            )
        else:
            self._frame(
                "response.reasoning_summary_part.added",
                opens=True,
                **at,
                summary_index=0,
                part=summary_text(""),
            )
        return part

    def _close(self, part: _Part, item: Item | None = None) -> None:
        at: dict[str, Any] = {"item_id": part.item_id, "output_index": part.index}
        if part.kind == "token":
            item = item or text_item(part.item_id, part.text)
            [content] = item["content"]
            text = content["text"]
            self._frame("response.output_text.done", **at, content_index=0, text=text, logprobs=[])
            self._frame("response.content_part.done", **at, content_index=0, part=content)
        else:
            item = item or reasoning_item(part.item_id, part.text)
            [content] = item["summary"]
            text = content["text"]
            self._frame("response.reasoning_summary_text.done", **at, summary_index=0, text=text)
            self._frame("response.reasoning_summary_part.done", **at, summary_index=0, part=content)
        self._frame("response.output_item.done", output_index=part.index, item=item)

    def _whole(self, item: Item) -> None:
        """Show an item that never has deltas."""
        index = self._index(item["id"])
        self._frame("response.output_item.added", output_index=index, item=item)
        self._frame("response.output_item.done", output_index=index, item=item)

    def _shown_whole(self, item: Item) -> _Part:
        """Open a text or a reasoning, and show all of it as one delta."""
        is_text = item["type"] == "message"
        # Its place is in its id.
        message_id, _, place = item["id"].removeprefix("" if is_text else "rs_").partition("~")
        part = self._open(message_id, int(place or 0), "token" if is_text else "thinking")
        at: dict[str, Any] = {"item_id": part.item_id, "output_index": part.index}
        if is_text:
            text = item["content"][0]["text"]
            at |= {"content_index": 0, "delta": text, "logprobs": []}
        else:
            text = item["summary"][0]["text"]
            at |= {"summary_index": 0, "delta": text}
        part.texts.append(encode(text))
        self._frame(_DELTAS[part.kind].decode(), opens=True, **at)
        return part

    def _call(self, message_id: str, place: int, call: Mapping[str, Any]) -> None:
        is_client = call["name"] in self._tools
        item_id = call_id(message_id, place, is_client=is_client)
        index = self._index(item_id)
        shown = self._calls[call["id"]] = _Call(item_id, index, call, is_client)
        empty = {**call, "arguments": ""}
        if is_client:
            item, kind = function_call(item_id, empty, "in_progress"), "function_call_arguments"
        else:
            item, kind = tool_run(item_id, empty, self._label, "in_progress"), "mcp_call_arguments"
        text = arguments_text(call["arguments"])
        at: dict[str, Any] = {"item_id": item_id, "output_index": index}
        self._frame("response.output_item.added", output_index=index, item=item)
        if not is_client:
            self._frame("response.mcp_call.in_progress", **at)
        self._frame(f"response.{kind}.delta", **at, delta=text)
        named = {"name": call["name"]} if is_client else {}
        self._frame(f"response.{kind}.done", **at, **named, arguments=text)
        if is_client:
            shown.is_done = True
            item = function_call(item_id, call)
            self._frame("response.output_item.done", output_index=index, item=item)

    def _result(
        self, call_id: str, message_id: str, text: str | None, error: str | None = None
    ) -> None:
        shown = self._calls.get(call_id)
        if shown is None:
            return  # of an earlier run: the response that has the call has shown it
        if shown.is_client:
            # The agent has run it after all.
            if message_id not in self._indexes:
                output = {"id": message_id, "tool_call_id": call_id, "content": text or error or ""}
                self._whole(call_output(output))
            return
        if shown.is_done:
            return
        shown.is_done = True
        state = "completed" if error is None else "failed"
        at: dict[str, Any] = {"item_id": shown.item_id, "output_index": shown.index}
        self._frame(f"response.mcp_call.{state}", **at)
        # What a failed call said is its output, as in the message that keeps it.
        item = tool_run(shown.item_id, shown.call, self._label, "completed", text or error)
        self._frame("response.output_item.done", output_index=shown.index, item=item)

    def _frame(self, kind: str, /, opens: bool = False, **fields: Any) -> None:
        self.number = min(self.number + 1, self._last_number)
        if self.number <= self._after or (opens and self._is_inside):
            return
        event = {"type": kind, "sequence_number": self.number, **fields}
        self._out.append(b"event: %b\ndata: %b\n\n" % (kind.encode(), encode(event)))


_BOUNDARIES: Final = frozenset({"run_start", "message", "tool_complete", "tool_error"})
"""The events before which no part of a later message begins. (One may, while two calls run at the
same time: a reader who comes back there after compaction may see an item begin again.)"""

_DELTAS: Final[Mapping[str, bytes]] = {
    "token": b"response.output_text.delta",
    "thinking": b"response.reasoning_summary_text.delta",
}
_PLACES: Final[Mapping[str, bytes]] = {
    "token": b'"content_index":0,"logprobs":[]',
    "thinking": b'"summary_index":0',
}
