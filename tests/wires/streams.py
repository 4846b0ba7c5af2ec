"""The SSE of Durable Streams, read by the standard's rules."""

import json
from typing import Any


def parsed(text: str) -> list[tuple[str, Any]]:
    """Return `(event, data)` of each whole frame with data."""
    found: list[tuple[str, Any]] = []
    kind, data = "message", list[str]()
    for line in text.split("\n"):
        name, _, value = line.partition(":")
        if not line:
            if data:
                found.append((kind, json.loads("\n".join(data))))
            kind, data = "message", []
        elif name == "event":
            kind = value.removeprefix(" ")
        elif name == "data":
            data.append(value.removeprefix(" "))
    return found


def messages(text: str) -> list[dict[str, Any]]:
    """Return the messages of all data frames."""
    return [one for kind, batch in parsed(text) if kind == "data" for one in batch]


def offsets(text: str) -> list[str]:
    """Return the offset of each control frame."""
    return [data["streamNextOffset"] for kind, data in parsed(text) if kind == "control"]
