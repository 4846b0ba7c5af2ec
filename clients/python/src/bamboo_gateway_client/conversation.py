"""The messages of a session as people see them, folded from what is loaded and what is streamed.

The gateway assembles messages from the events of a run, and writes each as a `message` event when
it is whole. Until then this fold shows what the deltas have brought so far, in the shape that the
message will have and with `status: "incomplete"`; the `message` takes its place. At any position
the whole messages are those that `GET /sessions/{id}/messages` answers there.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

from bamboo_gateway_client.events import TERMINAL_TYPES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bamboo_gateway_client.events import StreamedEvent
    from bamboo_gateway_client.types import Message, OpenRequest, Session


class Conversation:
    """The current branch of a session: its messages, its active run, what it asks.

    `session.conversation()` loads one, and `session.follow()` keeps it up to date. A program that
    reads the stream itself calls `apply` for each event, and loads again when `is_stale`.

    Args:
        session: The session's state.
        messages: Its messages, the oldest first.
        position: The position of the stream that goes on from here. It may be before the messages,
            so that the active run's events come again.
        loaded_position: The position that the messages were read at: up to there, events add
            only the words of the message that is being said.

    Attributes:
        session_id: The session.
        title: Its title.
        position: The position of the stream that goes on from here.
        active_run_id: The run that is executing.
        queued_run_ids: The runs that wait for it, as far as they came while this was followed.
        open_requests: What the agent has asked and nobody has answered.
        last_event: The event that was applied last.
        is_stale: Whether the messages have to be loaded again: after a `reset`, and when another
            branch was selected.
    """

    def __init__(
        self,
        session: Session,
        messages: Sequence[Message] = (),
        position: str | None = None,
        loaded_position: str | None = None,
    ) -> None:
        self.session_id = session["id"]
        self.title = session["title"]
        self.position = position
        self.active_run_id = session["active_run_id"]
        self.queued_run_ids: list[str] = []
        self.open_requests: list[OpenRequest] = list(session.get("open_requests", ()))
        self.last_event: StreamedEvent | None = None
        self.is_stale = False
        self._loaded_seq = int((loaded_position or "").partition("-")[2] or 0)
        self._whole: list[dict[str, Any]] = [dict(message) for message in messages]
        self._drafts: dict[str, _Draft] = {}
        # Which messages follow a message. Of those that were loaded, as far as `siblings` tells.
        self._next: dict[str | None, list[str]] = {}
        before: str | None = None
        for message in self._whole:
            parent = message.get("parent_id", before)
            self._next[parent] = list(message.get("siblings") or [message["id"]])
            before = message["id"]

    @property
    def messages(self) -> list[Message]:
        """All messages, the oldest first; those that are still being made are `incomplete`."""
        tip = self._tip
        shown = list(self._whole)
        for draft in self._drafts.values():
            shown.append(draft.shape(tip))
            tip = draft.id
        return cast("list[Message]", shown)

    def apply(self, event: Mapping[str, Any] | StreamedEvent) -> None:
        """Fold one event of the stream; types that mean nothing to people are passed over."""
        self.last_event = cast("StreamedEvent", event)
        self._apply(cast("Mapping[str, Any]", event))

    def _apply(self, event: Mapping[str, Any]) -> None:
        is_loaded = event.get("seq", self._loaded_seq + 1) <= self._loaded_seq
        match event["type"]:
            case "message" if is_loaded and self._place_of(event["message"]["id"]) is None:
                # It is before the first message that was loaded.
                self._drafts.pop(event["message"]["id"], None)
            case "branch_started" | "branch_selected" | "session_merged" if is_loaded:
                pass
            case "message":
                self._message(event["message"])
            case "token" | "thinking" | "tool_start" | "tool_complete" | "tool_error":
                self._delta(event)
            case "branch_started":
                self._cut_after(event["from_message_id"])
            case "branch_selected" | "reset":
                self.is_stale = True
            case "session_merged":
                self.is_stale |= bool(event.get("replaces"))
            case "session_created" | "session_updated":
                self.title = event.get("title", self.title)
            case _:
                self._turn(event)

    def _turn(self, event: Mapping[str, Any]) -> None:
        """Fold what tells how the session's runs stand."""
        match event["type"]:
            case "input_required":
                self._asked(event)
            case "input_given" | "input_closed":
                self._answered(event["request_id"])
            case "run_queued":
                if event["run_id"] not in self.queued_run_ids:
                    self.queued_run_ids.append(event["run_id"])
            case "run_start":
                self._dequeue(event["run_id"])
                self.active_run_id = event["run_id"]
            case kind if kind in TERMINAL_TYPES:
                self._run_ended(event["run_id"])
            case _:
                pass

    @property
    def _tip(self) -> str | None:
        return self._whole[-1]["id"] if self._whole else None

    def _place_of(self, message_id: str) -> int | None:
        # From the end: what comes again is a message of the active run.
        for place in range(len(self._whole) - 1, -1, -1):
            if self._whole[place]["id"] == message_id:
                return place
        return None

    def _message(self, message: Mapping[str, Any]) -> None:
        self._drafts.pop(message["id"], None)
        place = self._place_of(message["id"])
        if place is not None:
            known = self._whole[place]
            siblings = {"siblings": known["siblings"]} if "siblings" in known else {}
            self._whole[place] = {**message, **siblings}
            return
        parent = message.get("parent_id", self._tip)
        if parent != self._tip:
            self.is_stale = True  # it is on a branch that is not shown
            return
        following = self._next.setdefault(parent, [])
        if message["id"] not in following:
            following.append(message["id"])
        siblings = {"siblings": list(following)} if len(following) > 1 else {}
        self._whole.append({**message, **siblings})

    def _delta(self, event: Mapping[str, Any]) -> None:
        message_id = event["message_id"]
        if self._place_of(message_id) is not None:
            return  # the whole message is here already: the stream began before it
        draft = self._drafts.get(message_id)
        if draft is None:
            if event["type"] == "tool_start" and self._has_call(event["tool_call_id"]):
                return
            draft = self._drafts[message_id] = _Draft(event)
        draft.add(event)

    def _has_call(self, call_id: str) -> bool:
        """Return whether a message on its way has this call: a repeated start changes nothing."""
        return any(call_id in draft.calls for draft in self._drafts.values())

    def _cut_after(self, message_id: str | None) -> None:
        place = -1 if message_id is None else self._place_of(message_id)
        if place is None:
            self.is_stale = True
            return
        del self._whole[place + 1 :]
        self._drafts.clear()

    def _asked(self, event: Mapping[str, Any]) -> None:
        self._answered(event["request_id"])
        request = {
            "request_id": event["request_id"],
            "kind": event["kind"],
            "prompt": event["prompt"],
            "run_id": event["run_id"],
            "tool_call_id": event.get("tool_call_id"),
            "asked_at": event["time"],
            "expires_at": event.get("expires_at"),
        }
        self.open_requests.append(cast("OpenRequest", request))

    def _answered(self, request_id: str) -> None:
        self.open_requests = [one for one in self.open_requests if one["request_id"] != request_id]

    def _dequeue(self, run_id: str) -> None:
        self.queued_run_ids = [one for one in self.queued_run_ids if one != run_id]

    def _run_ended(self, run_id: str) -> None:
        self._dequeue(run_id)
        if self.active_run_id == run_id:
            self.active_run_id = None
        # What the run said is in whole messages now.
        self._drafts = {
            name: draft for name, draft in self._drafts.items() if draft.run_id != run_id
        }


class _Draft:
    """A message that has begun and is not whole yet."""

    def __init__(self, event: Mapping[str, Any]) -> None:
        self.id: str = event["message_id"]
        self.run_id: str = event["run_id"]
        self.calls: dict[str, dict[str, Any]] = {}
        self._created_at: str = event["time"]
        self._parts: list[tuple[str, list[str]]] = []
        self._result: dict[str, Any] | None = None

    def add(self, event: Mapping[str, Any]) -> None:
        match event["type"]:
            case "token":
                self._text("text", event["content"])
            case "thinking":
                self._text("thinking", event["content"])
            case "tool_start":
                name, arguments = event["tool_name"], event["arguments"]
                call_id = event["tool_call_id"]
                self.calls[call_id] = {"id": call_id, "name": name, "arguments": arguments}
            case "tool_complete":
                content = event["result"]["content"]
                self._result = {"tool_call_id": event["tool_call_id"], "content": _text(content)}
            case "tool_error":
                self._result = {"tool_call_id": event["tool_call_id"], "content": event["error"]}
            case _:
                pass

    def shape(self, parent_id: str | None) -> dict[str, Any]:
        """Return the message so far."""
        shape: dict[str, Any] = {"id": self.id, "parent_id": parent_id, "role": "assistant"}
        if self._result is not None:
            shape |= {"role": "tool", **self._result}
        else:
            shape["content"] = self._content()
            if self.calls:
                shape["tool_calls"] = list(self.calls.values())
        about = {"run_id": self.run_id, "created_at": self._created_at, "metadata": {}}
        return {**shape, "status": "incomplete", **about}

    def _text(self, kind: str, text: str) -> None:
        if not self._parts or self._parts[-1][0] != kind:
            self._parts.append((kind, []))
        self._parts[-1][1].append(text)

    def _content(self) -> str | list[dict[str, Any]]:
        for _, texts in self._parts:
            # Joined once: a page asks after each delta.
            texts[:] = ["".join(texts)]
        if all(kind == "text" for kind, _ in self._parts):
            return "".join(texts[0] for _, texts in self._parts)
        return [{"type": kind, "text": texts[0]} for kind, texts in self._parts]


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))
