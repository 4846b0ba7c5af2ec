"""A client of AG-UI in a few lines: the rules of the official one's verifier and reducer.

It shares no code with the wire. `test_ag_ui_official.py` runs the real client.
"""

import json
from typing import Any

Event = dict[str, Any]


def events_of(text: str) -> list[Event]:
    """Return the events of a stream, read as the official client reads it: at blank lines, LF."""
    assert "\r" not in text
    assert "[DONE]" not in text
    found: list[Event] = []
    for piece in text.split("\n\n"):
        data = [line[5:].removeprefix(" ") for line in piece.split("\n") if line[:5] == "data:"]
        if data:
            found.append(json.loads("\n".join(data)))
    assert not text or text.endswith("\n\n"), text[-80:]
    return found


class Client:
    """What a client has: the messages of a thread, folded from any number of streams."""

    def __init__(self, *messages: Event) -> None:
        self.messages: list[Event] = list(messages)
        self.state: Any = None
        self.last: Event = {}
        self.types: list[str] = []

    def read(self, text: str) -> "Client":
        """Take a whole stream, which has to begin and end as the protocol says."""
        self.take(events_of(text))
        assert self.last["type"] in ("RUN_FINISHED", "RUN_ERROR")
        return self

    def take(self, events: list[Event]) -> None:
        """Take the events of one stream, or of the begin of one."""
        open_of: dict[str, set[str]] = {
            "text": set(),
            "call": set(),
            "thought": set(),
            "span": set(),
        }
        steps: list[str] = []
        for at, event in enumerate(events):
            kind = event["type"]
            assert _has_no_null(event), event
            assert at or kind in ("RUN_STARTED", "RUN_ERROR"), "the first event"
            self._check(kind, event, open_of, steps)
            self._apply(kind, event)
            self.last = event
            self.types.append(kind)

    def _check(
        self, kind: str, event: Event, open_of: dict[str, set[str]], steps: list[str]
    ) -> None:
        for name, (begin, middle, end, key) in _BRACKETS.items():
            if kind == begin:
                assert event[key] not in open_of[name], event
                open_of[name].add(event[key])
            elif kind in (middle, end):
                assert event[key] in open_of[name], event
                if kind == end:
                    open_of[name].discard(event[key])
        if kind == "STEP_STARTED":
            assert event["stepName"] not in steps
            steps.append(event["stepName"])
        if kind == "STEP_FINISHED":
            steps.remove(event["stepName"])
        if kind == "RUN_FINISHED":
            assert not steps
            assert not any(open_of.values()), open_of

    def _apply(self, kind: str, event: Event) -> None:
        match kind:
            case "TEXT_MESSAGE_START":
                self._of(event["messageId"], event.get("role", "assistant")).setdefault(
                    "content", ""
                )
            case "REASONING_MESSAGE_START":
                self._of(event["messageId"], "reasoning").setdefault("content", "")
            case "TEXT_MESSAGE_CONTENT" | "REASONING_MESSAGE_CONTENT":
                message = self._of(event["messageId"])
                message["content"] = (message.get("content") or "") + event["delta"]
            case "TOOL_CALL_START":
                if self._call(event["toolCallId"]) is None:
                    calls = self._of(event["parentMessageId"]).setdefault("toolCalls", [])
                    function = {"name": event["toolCallName"], "arguments": ""}
                    calls.append(
                        {"id": event["toolCallId"], "type": "function", "function": function}
                    )
            case "TOOL_CALL_ARGS":
                call = self._call(event["toolCallId"])
                assert call is not None
                call["function"]["arguments"] += event["delta"]
            case "TOOL_CALL_RESULT":
                self._result(event)
            case "MESSAGES_SNAPSHOT":
                self._snapshot(event["messages"])
            case "STATE_SNAPSHOT":
                self.state = event["snapshot"]
            case _:
                pass

    def _of(self, message_id: str, role: str = "assistant") -> Event:
        for message in self.messages:
            if message["id"] == message_id:
                return message
        self.messages.append({"id": message_id, "role": role})
        return self.messages[-1]

    def _call(self, call_id: str) -> Event | None:
        for message in self.messages:
            for call in message.get("toolCalls") or ():
                if call["id"] == call_id:
                    found: Event = call
                    return found
        return None

    def _result(self, event: Event) -> None:
        message = {
            "id": event["messageId"],
            "role": "tool",
            "toolCallId": event["toolCallId"],
            "content": event["content"],
        }
        owners = [
            at
            for at, one in enumerate(self.messages)
            if any(call["id"] == event["toolCallId"] for call in one.get("toolCalls") or ())
        ]
        at = owners[0] + 1 if owners else len(self.messages)
        while owners and at < len(self.messages) and self.messages[at]["role"] == "tool":
            at += 1
        self.messages.insert(at, message)

    def _snapshot(self, messages: list[Event]) -> None:
        named = {message["id"]: message for message in messages}
        keeps_reasoning = all(message["role"] != "reasoning" for message in messages)
        self.messages = [
            named.get(message["id"], message)
            for message in self.messages
            if message["id"] in named or (message["role"] == "reasoning" and keeps_reasoning)
        ]
        known = {message["id"] for message in self.messages}
        self.messages += [message for message in messages if message["id"] not in known]

    def shown(self) -> list[tuple[Any, ...]]:
        """Return who said what, without ids."""
        return shown(self.messages)


_BRACKETS = {
    "text": ("TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_END", "messageId"),
    "call": ("TOOL_CALL_START", "TOOL_CALL_ARGS", "TOOL_CALL_END", "toolCallId"),
    "thought": (
        "REASONING_MESSAGE_START",
        "REASONING_MESSAGE_CONTENT",
        "REASONING_MESSAGE_END",
        "messageId",
    ),
    "span": ("REASONING_START", "", "REASONING_END", "messageId"),
}


def shown(messages: list[Event]) -> list[tuple[Any, ...]]:
    """Return who said what in messages of AG-UI, without ids."""
    return [
        (
            message["role"],
            message.get("content") or "",
            [
                (call["function"]["name"], call["function"]["arguments"])
                for call in message.get("toolCalls") or ()
            ],
        )
        for message in messages
    ]


def native(messages: list[Event]) -> list[tuple[Any, ...]]:
    """Return who said what in messages of the gateway, as a client of AG-UI shows it."""
    found: list[tuple[Any, ...]] = []
    late: list[tuple[Any, ...]] = []
    for message in messages:
        if message["role"] != "tool":
            found, late = [*found, *late], []
        joined = _joined(message["content"])
        texts = [at for at, (kind, _) in enumerate(joined) if kind == "text"]
        first = texts[0] if texts else len(joined)
        calls = [
            (call["name"], _arguments(call["arguments"]))
            for call in message.get("tool_calls") or ()
        ]
        found += [("reasoning", text, []) for kind, text in joined[:first] if kind == "thinking"]
        said = "".join(text for kind, text in joined if kind == "text")
        if said or calls or message["role"] != "assistant":
            found.append((message["role"], said, calls))
        late += [("reasoning", text, []) for kind, text in joined[first:] if kind == "thinking"]
    return [*found, *late]


def _joined(content: str | list[Event]) -> list[list[str]]:
    """Return the texts and thoughts of a message, neighbours of one kind as one."""
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    joined: list[list[str]] = []
    for part in parts:
        if part["text"] and joined and joined[-1][0] == part["type"]:
            joined[-1][1] += part["text"]
        elif part["text"]:
            joined.append([part["type"], part["text"]])
    return joined


def _arguments(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _has_no_null(event: Event) -> bool:
    if event["type"] == "CUSTOM":
        return True  # its value is the application's own
    return all(value is not None for value in event.values())
