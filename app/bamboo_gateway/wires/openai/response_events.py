"""The events of a run, one after the other, and what each adds to the frames of its response.

A run's events are read in the order of the log, from its first one on. Each becomes no frame or
several. Deltas open an item, and the `message` that replaces them closes it. A message whose deltas
are gone (compaction), or that an agent has said as a whole, is shown as an item with one delta. A
reader who comes back to a place inside of what is gone has seen its begin, and gets its end alone.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from bamboo_gateway.domain.codec import decode, encode
from bamboo_gateway.domain.events import TERMINAL_TYPES
from bamboo_gateway.sessions.run_records import RunRecord
from bamboo_gateway.wires.openai.ids import call_id
from bamboo_gateway.wires.openai.item_frames import (
    DELTAS,
    PLACES,
    ItemFrames,
    part_of,
)
from bamboo_gateway.wires.openai.items import (
    Item,
    Results,
    approval,
    approvals_of,
    call_output,
    placed_items,
)
from bamboo_gateway.wires.openai.response_state import (
    FRAMES_PER_EVENT,
    Hot,
    Making,
    Part,
    ResponsePlace,
    RunState,
    ShownCall,
)
from bamboo_gateway.wires.openai.responses import (
    begun_response,
    response_of,
    tool_names,
)

_DELTA: Final = re.compile(
    rb'\{"type":"(token|thinking)","seq":([0-9]+),"time":"[^"]*",'
    rb'("run_id":"([^"]*)","message_id":"([^"]*)"),"content":(".*")\}',
    re.DOTALL,
)
_ENDINGS: Final = {"completed": "completed", "failed": "failed"}
"""The last frame by the response's status; all others end with `response.incomplete`: the protocol
has no frame for a response that was cancelled."""

_BOUNDARIES: Final = frozenset({"run_start", "message", "tool_complete", "tool_error"})
"""The events before which no part of a later message begins. (One may, while two calls run at the
same time: a reader who comes back there after compaction may see an item begin again.)"""


class ResponseEvents(ItemFrames):
    """A state that changes while lines are taken."""

    def __init__(
        self, record: RunRecord, first: int, place: ResponsePlace, out: list[bytes]
    ) -> None:
        super().__init__(record.run["agent"], place.after, place.number, out)
        self._record = record
        self._run_id = record.run["run_id"]
        self._tools = tool_names(record)
        self._first = first
        self._place = place
        self._texts = place.texts
        run = place.run
        self._boundary = run.boundary
        self._indexes = dict(run.indexes)
        self._messages = dict(run.messages)
        self._calls = dict(run.calls)
        self._hot = run.hot
        self._end_seq: int | None = None

    def take(self, lines: bytes) -> ResponsePlace:
        """Take lines up to the run's end, and return the place behind them."""
        at = 0
        while at < len(lines) and self._end_seq is None:
            if self._hot is not None:
                at, self._texts, self.number = self._hot.take(
                    lines, at, self._texts, self.number, self.after, self.out
                )
                if at == len(lines):
                    break
            end = lines.index(b"\n", at)
            line = lines[at:end]
            if (delta := _DELTA.fullmatch(line)) is not None:
                self._delta(delta)
            elif not line.startswith(b'{"type":"tool_delta",'):
                event = decode(line)
                if event.get("run_id") == self._run_id:
                    self._event(event)
            at = end + 1
        return self._behind(lines)

    def _behind(self, lines: bytes, *, has_ended: bool = False) -> ResponsePlace:
        run = RunState(
            self._boundary,
            self._indexes,
            self._messages,
            self._calls,
            self._hot,
            self._end_seq,
            has_ended,
        )
        place = self._place.behind(lines, run, self._texts, self.number)
        if self._boundary >= self.after:
            place.after = -1  # it says nothing about what follows
        return place

    def end(self, record: RunRecord) -> ResponsePlace:
        """Make the last frames, from the run that has ended."""
        seq = self._place.run.end_seq
        assert seq is not None
        self._cool()
        self.begin(seq - self._first, self._boundary)
        for message in self._messages.values():
            if message.open is not None:
                self.close(message.open)
        for call in self._calls.values():
            if not call.is_done:
                self.call_done(call, "incomplete")
        response, indexes, last = response_of(record), self._indexes, len(self._indexes)
        response["output"].sort(key=lambda item: indexes.get(item["id"], last))
        kind = _ENDINGS.get(response["status"], "incomplete")
        self.frame(f"response.{kind}", response=response)
        return self._behind(b"", has_ended=True)

    # -- deltas -------------------------------------------------------------------------------

    def _delta(self, found: re.Match[bytes]) -> None:
        """Take a delta that does not continue the hot part."""
        kind, stem, run_id, message_id, text = found.group(1, 3, 4, 5, 6)
        if run_id.decode() != self._run_id:
            return
        self._cool()
        self.begin(int(found[2]) - self._first, self._boundary)
        self.is_inside = False
        name = message_id.decode()
        message = self._messages.get(name) or Making()
        part = message.open
        if part is not None and part.kind != kind.decode():
            self.close(part)
            part = None
        if part is None:
            part = part_of(name, message.places, kind.decode(), self._indexes)
            self.open(part)
            message = message._replace(places=message.places + 1)
        self._messages[name] = message._replace(open=part)
        event = DELTAS[part.kind]
        ids = encode({"item_id": part.item_id, "output_index": part.output_index})[1:-1]
        before = b'event: %b\ndata: {"type":"%b","sequence_number":' % (event, event)
        behind = b",%b,%b," % (ids, PLACES[part.kind]) + b'"delta":'
        begin = b'{"type":"%b","seq":' % kind
        self._hot = Hot(name, self._first, begin, b'%b,"content":' % stem, before, behind)
        self._texts = (part.texts, text[1:-1])
        self.number = min(self.number + 1, self.last_number)
        if self.number > self.after:
            self.out.append(b"%b%d%b%b}\n\n" % (before, self.number, behind, text))

    def _cool(self) -> None:
        """Leave the hot part: its message has its deltas from here on."""
        hot, self._hot = self._hot, None
        if hot is None:
            return
        message = self._messages[hot.message_id]
        assert message.open is not None
        part = message.open._replace(texts=self._texts)
        self._messages[hot.message_id] = message._replace(open=part)
        self._texts = None

    # -- other events -------------------------------------------------------------------------

    def _event(self, event: Mapping[str, Any]) -> None:
        if event["type"] in TERMINAL_TYPES:
            self._end_seq = event["seq"]
            return
        before = self.number
        self._cool()
        self.begin(event["seq"] - self._first, self._boundary)
        match event["type"]:
            case "run_queued":
                self._lifecycle("queued", "created", "queued")
            case "run_start":
                names = ("created", "in_progress") if before < 0 else ("in_progress",)
                self._lifecycle("in_progress", *names)
                self._go_on()
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
                self._asked(event)
            case _:
                pass
        if self.number < self.last_number - FRAMES_PER_EVENT + 1:
            self.number = before  # it has no frame
        if event["type"] in _BOUNDARIES:
            self._boundary = self.number

    def _lifecycle(self, status: str, *names: str) -> None:
        for name in names:
            self.frame(f"response.{name}", response=begun_response(self._record, status))

    def _go_on(self) -> None:
        """Show the calls that an earlier run has asked people about: this run has the results."""
        approvals = approvals_of(one.asked for one in self._record.answered)
        for call, message_id, place in self._record.continued:
            if call["name"] not in self._tools:
                self._call(message_id, place, call, approvals.get(call["id"]))

    def _said(self, said: Mapping[str, Any]) -> None:
        """Take an authoritative message: what its deltas have opened is closed by it."""
        if said["role"] == "tool":
            text = said["content"] if isinstance(said["content"], str) else None
            self._result(said["tool_call_id"], said["id"], text)
        if said["role"] != "assistant":
            return
        message = self._messages.pop(said["id"], None) or Making()
        if message.places:
            self.is_inside = False  # its deltas are there
        part = message.open
        # What deltas would have opened, and closed, before this event is numbered first.
        end = self.last_number
        self.last_number = behind = end - FRAMES_PER_EVENT // 2
        items = [
            placed.item
            for placed in placed_items(said, self._tools, self._label, Results(()), {})
            if placed.kind != "call"
        ]
        last: Part | None = None
        for item in items:
            if item["id"] not in self._indexes:
                if last is not None:
                    self.close(last)
                last = self._shown_whole(item)
        self.last_number, self.number = end, behind
        if part is not None:
            final = next((item for item in items if item["id"] == part.item_id), None)
            self.close(part, final)
        if last is not None:
            self.close(last, items[-1] if items[-1]["id"] == last.item_id else None)
        for place, call in enumerate(said.get("tool_calls") or ()):
            if call["id"] not in self._calls:
                self._call(said["id"], place, call)

    def _shown_whole(self, item: Item) -> Part:
        is_text = item["type"] == "message"
        text = (item["content"] if is_text else item["summary"])[0]["text"]
        # Its place is in its id.
        message_id, _, place = item["id"].removeprefix("" if is_text else "rs_").partition("~")
        kind = "token" if is_text else "thinking"
        part = part_of(message_id, int(place or 0), kind, self._indexes)
        self.open(part)
        self.delta(part, text)
        return part._replace(texts=(None, encode(text)[1:-1]))

    # -- calls --------------------------------------------------------------------------------

    def _tool_start(self, event: Mapping[str, Any]) -> None:
        name = event["tool_call_id"]
        if name in self._calls:
            return
        message_id = event["message_id"]
        message = self._messages.get(message_id) or Making()
        call = {"id": name, "name": event["tool_name"], "arguments": event["arguments"]}
        self._call(message_id, message.calls, call)
        self._messages[message_id] = message._replace(calls=message.calls + 1)

    def _call(
        self, message_id: str, place: int, call: Mapping[str, Any], request: str | None = None
    ) -> None:
        is_client = call["name"] in self._tools
        item_id = call_id(message_id, place, is_client=is_client)
        index = self._index(item_id)
        shown = ShownCall(item_id, index, call, is_client, is_client, request)
        self._calls[call["id"]] = shown
        self.call(shown)

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
                self.whole(self._index(message_id), call_output(output))
            return
        if shown.is_done:
            return
        self._calls[call_id] = shown._replace(is_done=True)
        state = "completed" if error is None else "failed"
        self.frame(
            f"response.mcp_call.{state}", item_id=shown.item_id, output_index=shown.output_index
        )
        # What a failed call said is its output, as in the message that keeps it.
        self.call_done(shown, "completed", text or error)

    def _asked(self, event: Mapping[str, Any]) -> None:
        about = event.get("tool_call_id", "")
        shown = self._calls.get(about)
        item = approval(event, self._label, shown.call if shown is not None else None)
        if shown is not None:
            self._calls[about] = shown._replace(request=item["id"])
        self.whole(self._index(item["id"]), item)

    def _index(self, item_id: str) -> int:
        return self._indexes.setdefault(item_id, len(self._indexes))
