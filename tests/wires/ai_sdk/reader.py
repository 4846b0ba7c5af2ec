"""A client of the protocol in a few lines: it makes a UI message of frames, and refuses bad ones.

It shares no code with the program. The official clients do the same (`test_clients`).
"""

import json
from typing import Any

PARTS = {
    "start": {"messageId"},
    "start-step": set(),
    "finish-step": set(),
    "text-start": {"id"},
    "text-delta": {"id", "delta"},
    "text-end": {"id"},
    "reasoning-start": {"id"},
    "reasoning-delta": {"id", "delta"},
    "reasoning-end": {"id"},
    "tool-input-available": {"toolCallId", "toolName", "input"},
    "tool-output-available": {"toolCallId", "output"},
    "tool-output-error": {"toolCallId", "errorText"},
    "file": {"url", "mediaType"},
    "finish": set(),
    "abort": set(),
    "error": {"errorText"},
}
NEWER: dict[int, dict[str, set[str]]] = {
    5: {},
    6: {
        "finish": {"finishReason"},
        "abort": {"reason"},
        "tool-approval-request": {"approvalId", "toolCallId"},
        "tool-output-denied": {"toolCallId"},
    },
}
NEWER[7] = NEWER[6] | {
    "tool-approval-response": {"approvalId", "approved", "reason"},
    "reset-step": set(),
}


def chunks(text: str) -> list[dict[str, Any]]:
    """Return the parts of a stream; the last one is `{"type": "[DONE]"}` if it was sent."""
    found: list[dict[str, Any]] = []
    for block in text.split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        if not lines:
            continue
        [line] = lines
        data = line.removeprefix("data: ")
        found.append({"type": "[DONE]"} if data == "[DONE]" else json.loads(data))
    return found


class Reader:
    """Makes a UI message of the frames of a version.

    Args:
        version: The major version; what it does not know is an error.
        message: The message that the client has already, and that the stream goes on with.
    """

    def __init__(self, version: int, message: dict[str, Any] | None = None) -> None:
        self.known = PARTS | NEWER[version]
        self.message = message or {"id": None, "role": "assistant", "parts": []}
        self.texts: dict[tuple[str, str], dict[str, Any]] = {}
        self.ended_with: str | None = None
        self.is_done = False
        self.started = False

    def read(self, text: str) -> "Reader":
        for chunk in chunks(text):
            self.take(chunk)
        return self

    def take(self, chunk: dict[str, Any]) -> None:
        kind = chunk["type"]
        assert not self.is_done, "after the end"
        if kind == "[DONE]":
            self.is_done = True
            return
        members = chunk.keys() - {"type"}
        if kind.startswith("data-"):
            assert members <= {"id", "data", "transient"}
        else:
            assert kind in self.known, f"an unknown part {kind}"
            assert members <= self.known[kind], chunk
        ends = {"error", "finish", "abort"}
        is_first = kind == "start" or kind in ends or chunk.get("transient")
        assert self.started or is_first, f"{kind} before start"
        self._apply(kind, chunk)

    def _apply(self, kind: str, chunk: dict[str, Any]) -> None:
        parts = self.message["parts"]
        name, _, step = kind.partition("-")
        if kind == "start":
            self.started = True
            if "messageId" in chunk:
                assert self.message["id"] in {None, chunk["messageId"]}
                self.message["id"] = chunk["messageId"]
        elif kind == "start-step":
            parts.append({"type": "step-start"})
        elif name in {"text", "reasoning"}:
            self._text(name, step, chunk)
        elif name == "tool":
            self._tool(step, chunk)
        elif kind == "reset-step":
            while parts[-1]["type"] != "step-start":
                parts.pop()
            self.texts = {}
        elif kind == "file":
            parts.append(chunk)
        elif name == "data" and not chunk.get("transient"):
            self._data(chunk)
        elif kind in {"finish", "abort", "error"}:
            assert self.ended_with is None
            self.ended_with = kind

    def _text(self, name: str, step: str, chunk: dict[str, Any]) -> None:
        at = (name, chunk["id"])
        if step == "start":
            assert at not in self.texts
            self.texts[at] = {"type": name, "text": "", "state": "streaming"}
            self.message["parts"].append(self.texts[at])
        elif step == "delta":
            self.texts[at]["text"] += chunk["delta"]
        else:
            self.texts.pop(at)["state"] = "done"

    def _tool(self, step: str, chunk: dict[str, Any]) -> None:
        parts, call_id = self.message["parts"], chunk["toolCallId"]
        if step == "input-available":
            if not any(one.get("toolCallId") == call_id for one in parts):
                parts.append({"type": "tool-", "toolCallId": call_id})
            kind = f"tool-{chunk['toolName']}"
            self._call(chunk).update(type=kind, state="input-available", input=chunk["input"])
            return
        changes: dict[str, dict[str, Any]] = {
            "output-available": {"output": chunk.get("output")},
            "output-error": {"errorText": chunk.get("errorText")},
            "output-denied": {},
            "approval-request": {"approval": {"id": chunk.get("approvalId")}},
        }
        state = "approval-requested" if step == "approval-request" else step
        self._call(chunk).update(state=state, **changes[step])

    def _data(self, chunk: dict[str, Any]) -> None:
        parts, at = self.message["parts"], (chunk["type"], chunk.get("id"))
        known = [one for one in parts if "id" in chunk and (one["type"], one.get("id")) == at]
        if known:
            known[0]["data"] = chunk["data"]
        else:
            parts.append(chunk)

    def _call(self, chunk: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any]
        [found] = [
            one for one in self.message["parts"] if one.get("toolCallId") == chunk["toolCallId"]
        ]
        return found
