"""The frames of items, with their numbers.

`sequence_number` is made of the place of the event behind the run's begin: `place * 10000` and the
number of the frame among those of the event. So a number means the same for ever, whoever reads the
response, and whatever compaction has removed.
"""

from collections.abc import Mapping
from typing import Any, Final

from bamboo_gateway.domain.codec import decode, encode
from bamboo_gateway.wires.openai.ids import reasoning_id, text_id
from bamboo_gateway.wires.openai.items import (
    Item,
    arguments_text,
    function_call,
    output_text,
    reasoning_item,
    summary_text,
    text_item,
    tool_run,
)
from bamboo_gateway.wires.openai.response_state import (
    FRAMES_PER_EVENT,
    Part,
    ShownCall,
)
from bamboo_gateway.wires.places import joined

DELTAS: Final[Mapping[str, bytes]] = {
    "token": b"response.output_text.delta",
    "thinking": b"response.reasoning_summary_text.delta",
}
PLACES: Final[Mapping[str, bytes]] = {
    "token": b'"content_index":0,"logprobs":[]',
    "thinking": b'"summary_index":0',
}


def error_frame(number: int, code: str, words: str) -> bytes:
    """Return the frame of a stream that ends before the response does."""
    event = {
        "type": "error",
        "sequence_number": number,
        "code": code,
        "message": words,
        "param": None,
    }
    return b"event: error\ndata: %b\n\n" % encode(event)


class ItemFrames:
    """Makes frames, event by event.

    Args:
        label: The agent.
        after: Frames up to this number are left out.
        number: The number of the last frame.
        out: Gets the frames.
    """

    def __init__(self, label: str, after: int, number: int, out: list[bytes]) -> None:
        self.after = after
        self.number = number
        self.out = out
        self.last_number = 0
        self.is_inside = False
        self._label = label

    def begin(self, place: int, boundary: int) -> None:
        """Begin the frames of an event.

        A message whose deltas are gone began behind the boundary. A reader who is there too has
        seen its begin, and gets its end alone.

        Args:
            place: The place of the event behind the run's begin.
            boundary: The number before which nothing of the message was shown.
        """
        first = place * FRAMES_PER_EVENT
        self.is_inside = boundary < self.after < first
        self.last_number = first + FRAMES_PER_EVENT - 1
        self.number = first - 1

    def frame(self, kind: str, /, opens: bool = False, **fields: Any) -> None:
        """Add a frame, unless the reader has it.

        Args:
            kind: Its type.
            opens: Whether it is part of the begin of an item that deltas may have shown before.
            fields: Its members.
        """
        self.number = min(self.number + 1, self.last_number)
        if self.number <= self.after or (opens and self.is_inside):
            return
        event = {"type": kind, "sequence_number": self.number, **fields}
        self.out.append(b"event: %b\ndata: %b\n\n" % (kind.encode(), encode(event)))

    # -- texts and reasoning ------------------------------------------------------------------

    def open(self, part: Part) -> None:
        """Begin a text or a reasoning."""
        is_text = part.kind == "token"
        item = (
            text_item(part.item_id, "", "in_progress")
            if is_text
            else reasoning_item(part.item_id, "")
        )
        item["content" if is_text else "summary"] = []
        self.frame(
            "response.output_item.added", opens=True, output_index=part.output_index, item=item
        )
        at: dict[str, Any] = {"item_id": part.item_id, "output_index": part.output_index}
        if is_text:
            at |= {"content_index": 0, "part": output_text("")}
            self.frame("response.content_part.added", opens=True, **at)
        else:
            at |= {"summary_index": 0, "part": summary_text("")}
            self.frame("response.reasoning_summary_part.added", opens=True, **at)

    def delta(self, part: Part, text: str) -> None:
        """Show all of a text or a reasoning, which has no deltas, as one."""
        at: dict[str, Any] = {"item_id": part.item_id, "output_index": part.output_index}
        if part.kind == "token":
            at |= {"content_index": 0, "delta": text, "logprobs": []}
        else:
            at |= {"summary_index": 0, "delta": text}
        self.frame(DELTAS[part.kind].decode(), opens=True, **at)

    def close(self, part: Part, item: Item | None = None) -> None:
        """End a text or a reasoning; `item` is what its message says of it."""
        at: dict[str, Any] = {"item_id": part.item_id, "output_index": part.output_index}
        if part.kind == "token":
            item = item or text_item(part.item_id, _text_of(part))
            [content] = item["content"]
            text = content["text"]
            self.frame("response.output_text.done", **at, content_index=0, text=text, logprobs=[])
            self.frame("response.content_part.done", **at, content_index=0, part=content)
        else:
            item = item or reasoning_item(part.item_id, _text_of(part))
            [content] = item["summary"]
            text = content["text"]
            self.frame("response.reasoning_summary_text.done", **at, summary_index=0, text=text)
            self.frame("response.reasoning_summary_part.done", **at, summary_index=0, part=content)
        self.frame("response.output_item.done", output_index=part.output_index, item=item)

    # -- calls and other items ----------------------------------------------------------------

    def whole(self, index: int, item: Item) -> None:
        """Show an item that never has deltas."""
        self.frame("response.output_item.added", output_index=index, item=item)
        self.frame("response.output_item.done", output_index=index, item=item)

    def call(self, shown: ShownCall) -> None:
        """Show a call with its arguments; the client's own ends here."""
        call, is_client = shown.call, shown.is_client
        item = self.item_of(shown._replace(call={**call, "arguments": ""}), "in_progress")
        kind = "function_call_arguments" if is_client else "mcp_call_arguments"
        text = arguments_text(call["arguments"])
        at: dict[str, Any] = {"item_id": shown.item_id, "output_index": shown.output_index}
        self.frame("response.output_item.added", output_index=shown.output_index, item=item)
        if not is_client:
            self.frame("response.mcp_call.in_progress", **at)
        self.frame(f"response.{kind}.delta", **at, delta=text)
        named = {"name": call["name"]} if is_client else {}
        self.frame(f"response.{kind}.done", **at, **named, arguments=text)
        if is_client:
            self.call_done(shown, "completed")

    def call_done(self, shown: ShownCall, status: str, output: str | None = None) -> None:
        """End the item of a call."""
        item = self.item_of(shown, status, output)
        self.frame("response.output_item.done", output_index=shown.output_index, item=item)

    def item_of(self, shown: ShownCall, status: str, output: str | None = None) -> Item:
        """Return the item of a call."""
        if shown.is_client:
            return function_call(shown.item_id, shown.call, status)
        return tool_run(shown.item_id, shown.call, self._label, status, output, shown.request)


def part_of(message_id: str, place: int, kind: str, indexes: dict[str, int]) -> Part:
    """Return a part that begins; its item gets the next place in the output."""
    item_id = (text_id if kind == "token" else reasoning_id)(message_id, place)
    return Part(kind, item_id, indexes.setdefault(item_id, len(indexes)))


def _text_of(part: Part) -> str:
    return str(decode(b'"%b"' % joined(part.texts)))
