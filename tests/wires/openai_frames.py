"""Frames of OpenAI's protocol, read as its clients read them."""

import json
from typing import Any

Frame = dict[str, Any]


def frames_of(text: str) -> list[Frame]:
    """Return the data of each frame; its `event` has to be its type."""
    found = []
    for part in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in part.split("\n") if line[:1] not in {":", ""})
        if "data" in lines:
            frame = json.loads(lines["data"])
            assert frame["type"] == lines["event"]
            found.append(frame)
    return found


class Shown:
    """What a client has of a response after some frames: each frame has to fit the ones before."""

    def __init__(self) -> None:
        self.items: dict[int, dict[str, Any]] = {}
        self.parts: dict[int, str] = {}
        self.done: dict[int, dict[str, Any]] = {}
        self.number = -1
        self.response: dict[str, Any] | None = None

    def take(self, frame: Frame) -> None:
        assert frame["sequence_number"] > self.number, frame
        assert self.response is None, "nothing follows the end"
        self.number = frame["sequence_number"]
        index: int = frame.get("output_index", -1)
        match frame["type"].removeprefix("response."):
            case "output_item.added":
                assert index == len(self.items)
                self.items[index] = frame["item"]
            case "content_part.added" | "reasoning_summary_part.added":
                assert self.items[index]["id"] == frame["item_id"]
                assert index not in self.parts
                self.parts[index] = ""
            case (
                "output_text.delta"
                | "reasoning_summary_text.delta"
                | "function_call_arguments.delta"
                | "mcp_call_arguments.delta"
            ):
                assert self.items[index]["id"] == frame["item_id"]
                assert index not in self.done
                self.parts[index] = self.parts.get(index, "") + frame["delta"]
            case "output_text.done" | "reasoning_summary_text.done":
                assert self.parts[index] == frame["text"]
            case "function_call_arguments.done" | "mcp_call_arguments.done":
                assert self.parts[index] == frame["arguments"]
            case "output_item.done":
                assert index not in self.done
                assert self.items[index]["id"] == frame["item"]["id"]
                assert self.items[index]["type"] == frame["item"]["type"]
                self.done[index] = frame["item"]
            case "completed" | "failed" | "incomplete":
                self.response = frame["response"]
            case _:
                pass

    def check_end(self) -> dict[str, Any]:
        """Return the response at the end; its output has to be what was shown."""
        assert self.response is not None, "the stream has no end"
        assert [self.done[index] for index in sorted(self.items)] == self.response["output"]
        return self.response


def shown(frames: list[Frame]) -> Shown:
    """Return what a client has after all frames."""
    seen = Shown()
    for frame in frames:
        seen.take(frame)
    return seen
