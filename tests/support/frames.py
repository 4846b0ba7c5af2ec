"""Reading SSE as a client does: line by line, as the standard says, and no other way."""

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Frame:
    """One event of a stream: its id (None when it had none) and its data."""

    id: str | None
    data: dict[str, Any]

    @property
    def type(self) -> str:
        kind: str = self.data["type"]
        return kind

    @property
    def seq(self) -> int:
        seq: int = self.data["seq"]
        return seq


CONTROL_TYPES = frozenset({"open", "reset", "heartbeat", "goodbye"})


def parse_frames(stream: bytes) -> tuple[list[Frame], list[str]]:
    """Return the frames and the comments of a stream that is whole."""
    frames: list[Frame] = []
    comments: list[str] = []
    identifier: str | None = None
    data: list[str] = []
    assert b"\r" not in stream
    for line in stream.decode().split("\n"):
        if line == "":
            if data:
                frames.append(Frame(identifier, json.loads("\n".join(data))))
            identifier, data = None, []
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "":
            comments.append(value)
        elif name == "id":
            identifier = value
        elif name == "data":
            data.append(value)
        else:
            assert name == "retry", f"unknown field {name!r}"
    assert not data, "the stream ends within a frame"
    return frames, comments


def logged(frames: list[Frame]) -> list[Frame]:
    """Return the frames that stand in the log; each has its position as id."""
    return [frame for frame in frames if frame.type not in CONTROL_TYPES]


def frame_ends(stream: bytes) -> list[int]:
    """Return where each frame of a stream ends."""
    ends = []
    at = stream.find(b"\n\n")
    while at >= 0:
        ends.append(at + 2)
        at = stream.find(b"\n\n", at + 2)
    return ends


def whole_frames(stream: bytes, cut: int) -> list[Frame]:
    """Return the frames that a client has read of a stream that was cut off."""
    ends = [end for end in frame_ends(stream) if end <= cut]
    return parse_frames(stream[: ends[-1]])[0] if ends else []
