"""UI messages as the client stores them, folded from the events of a path without its deltas.

A fold over the same events gives the same messages, whether they come from a live log, one that was
compacted, an import or a fork.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from bamboo_gateway.wires.ai_sdk import parts
from bamboo_gateway.wires.ai_sdk.versions import Version


class UiMessages:
    """Folds events into UI messages.

    Args:
        version: The client's version: which parts it knows.
        prefix: The path prefix of the request, for the URLs of files.

    Attributes:
        messages: The UI messages so far.
        requests: The open requests for input of the last UI message, each as its event.
        answers: The answers that its requests have got, by the call that each is about.
    """

    def __init__(self, version: Version, prefix: str) -> None:
        self._version = version
        self._prefix = prefix
        self.messages: list[dict[str, Any]] = []
        self.requests: dict[str, dict[str, Any]] = {}
        self.answers: dict[str, Any] = {}
        self._open: dict[str, Any] | None = None
        self._calls: dict[str, dict[str, Any]] = {}
        self._early: dict[str, dict[str, Any]] = {}
        self._held: list[dict[str, Any]] = []
        self._resolved: set[str] = set()

    @property
    def assistant(self) -> dict[str, Any] | None:
        """The UI message of the assistant at the end; None when a user's message is the last."""
        return self._open

    @property
    def calls(self) -> Mapping[str, dict[str, Any]]:
        """The tool parts of the assistant's message at the end, by the id of the call."""
        return self._calls

    def is_waiting(self, call_id: str) -> bool:
        """Return whether a call of the message at the end has no result yet."""
        return call_id in self._calls and call_id not in self._resolved

    def take_all(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Fold events, in the order of the log."""
        for event in events:
            self.take(event)

    def take(self, event: Mapping[str, Any]) -> None:
        """Fold one event."""
        match event["type"]:
            case "message":
                self._message(event)
            case "tool_complete" | "tool_error":
                self._resolve(event["tool_call_id"], event)
            case "custom" if event.get("run_id"):
                self._add(parts.data_part(event["name"], event.get("value")))
            case "input_required":
                self._asked(event)
            case "input_given":
                self._answered(event)
            case "input_closed":
                self.requests.pop(event["request_id"], None)
            case "complete" if event.get("finish_reason") == "tool_calls":
                self._left_to_client()
            case _:
                pass

    def _message(self, event: Mapping[str, Any]) -> None:
        message = event["message"]
        role = message["role"]
        if role == "assistant":
            self._said(message)
        elif role == "tool":
            self._resolve(message.get("tool_call_id") or "", event)
        else:
            self._open = None
            self._calls, self._early, self._held = {}, {}, []
            self.requests, self.answers, self._resolved = {}, {}, set()
            self.messages.append(self._asked_by_user(message))

    def _asked_by_user(self, message: Mapping[str, Any]) -> dict[str, Any]:
        metadata = dict(message.get("metadata") or {})
        shown: dict[str, Any] = {
            "id": metadata.pop(parts.ALIAS, message["id"]),
            "role": message["role"],
            "parts": [],
        }
        if metadata:
            shown["metadata"] = metadata
        for part in parts.content_parts(message.get("content")):
            if part.get("type") == "text":
                shown["parts"].append({"type": "text", "text": part["text"]})
            elif (file := parts.file_part(part, self._prefix)) is not None:
                shown["parts"].append(file)
        return shown

    def _said(self, message: Mapping[str, Any]) -> None:
        if self._open is None:
            self._open = {"id": message["id"], "role": "assistant", "parts": []}
            self.messages.append(self._open)
        shown: list[dict[str, Any]] = self._open["parts"]
        shown.append({"type": "step-start"})
        shown += self._held
        self._held = []
        for part in parts.content_parts(message.get("content")):
            if part.get("type") in parts.KINDS:
                kind = parts.KINDS[part["type"]].decode()
                shown.append({"type": kind, "text": part["text"], "state": "done"})
            elif (file := parts.file_part(part, self._prefix)) is not None:
                file.pop("filename", None)
                shown.append(file)
        for call in message.get("tool_calls") or ():
            if call["id"] in self._calls:
                continue
            part = parts.call_part(call)
            self._calls[call["id"]] = part
            shown.append(part)
            # A request comes before the message with its call, which ends with the run.
            for name, asked in self.requests.items():
                if asked.get("tool_call_id") == call["id"] and is_approval(asked, self._version):
                    _ask(part, name)
            if (early := self._early.pop(call["id"], None)) is not None:
                self._put_output(call["id"], early)

    def _resolve(self, call_id: str, event: Mapping[str, Any]) -> None:
        if call_id in self._resolved:
            return  # its message, behind `tool_complete`
        output = parts.output_of(event)
        if call_id in self._calls:
            self._put_output(call_id, output)
        elif event["type"] != "message":
            self._early[call_id] = output

    def _put_output(self, call_id: str, output: dict[str, Any]) -> None:
        part = self._calls[call_id]
        self._resolved.add(call_id)
        if self._is_denied(call_id) and output["state"] == "output-error":
            part["state"] = "output-denied"
        else:
            part |= output

    def _is_denied(self, call_id: str) -> bool:
        if not self._version.has_approvals:
            return False
        return is_denied(self.answers.get(call_id))

    def _add(self, part: dict[str, Any]) -> None:
        shown = self._held if self._open is None else self._open["parts"]
        for earlier in shown:
            if earlier["type"] == part["type"] and "id" in part and earlier.get("id") == part["id"]:
                earlier["data"] = part["data"]
                return
        shown.append(part)

    def _asked(self, event: Mapping[str, Any]) -> None:
        self.requests[event["request_id"]] = dict(event)
        if not is_approval(event, self._version):
            self._add(parts.request_part(event))
        elif (call := self._calls.get(event["tool_call_id"])) is not None:
            _ask(call, event["request_id"])

    def _left_to_client(self) -> None:
        """Note that the client runs the calls that were approved: the run has not."""
        for call in self._calls.values():
            if call["state"] == "approval-responded" and call["approval"]["approved"]:
                call["state"] = "input-available"

    def _answered(self, event: Mapping[str, Any]) -> None:
        asked = self.requests.pop(event["request_id"], None)
        call_id = (asked or {}).get("tool_call_id") or ""
        self.answers[call_id or event["request_id"]] = event.get("answer")
        call = self._calls.get(call_id)
        answer = event.get("answer")
        if call is None or "approval" not in call or not isinstance(answer, dict):
            return
        approval = {"id": event["request_id"], "approved": bool(answer.get("approved"))}
        if isinstance(answer.get("reason"), str):
            approval["reason"] = answer["reason"]
        call["state"] = "approval-responded"
        call["approval"] = approval


def _ask(call: dict[str, Any], request_id: str) -> None:
    call["state"] = "approval-requested"
    call["approval"] = {"id": request_id}


def is_approval(event: Mapping[str, Any], version: Version) -> bool:
    """Return whether a client shows a request for input as the approval of a tool call."""
    return (
        version.has_approvals
        and event.get("kind") == "approval"
        and bool(event.get("tool_call_id"))
    )


def is_denied(answer: Any) -> bool:
    """Return whether an answer to an approval denies it."""
    return isinstance(answer, dict) and answer.get("approved") is False
