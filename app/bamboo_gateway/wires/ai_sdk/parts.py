"""Parts: the members of a UI message, and the frames that make the same parts in a client.

Text that is in the log as JSON is taken over as it is; nothing is decoded for it.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from bamboo_gateway.api.urls import file_url
from bamboo_gateway.domain.codec import encode, object_in
from bamboo_gateway.wires.ai_sdk.versions import Version

DONE: Final = b"data: [DONE]\n\n"
START_STEP: Final = b'data: {"type":"start-step"}\n\n'
FINISH_STEP: Final = b'data: {"type":"finish-step"}\n\n'
RESET_STEP: Final = b'data: {"type":"reset-step"}\n\n'

KINDS: Final = {"text": b"text", "thinking": b"reasoning"}
"""The name of a text in frames, by its name in the gateway's messages."""

JSON_OUTPUT: Final = "ai_sdk_json"
"""In the metadata of a tool message: whether its content is JSON, since the client's output was no
text. Without it an object or a list is taken for one."""

ERROR_OUTPUT: Final = "ai_sdk_error"
"""In the metadata of a tool message: the client says that the call failed."""

ALIAS: Final = "ai_sdk_id"
"""In the metadata of a user's message: the id that the client knows it by. An edit keeps the id of
the message whose place it takes, while the gateway gives each message its own."""

_FINISH_REASONS: Final = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content-filter",
    "tool_calls": "tool-calls",
    "input_required": "tool-calls",
    "error": "error",
}


def frame(part: Mapping[str, Any]) -> bytes:
    """Return the frame of a part."""
    return b"data: %b\n\n" % encode(part)


def start(message_id: str) -> bytes:
    """Return the frame that begins a UI message, or goes on with it."""
    return frame({"type": "start", "messageId": message_id})


def text_start(kind: bytes, text_id: bytes) -> bytes:
    """Return the frame that begins a text; `kind` is one of `KINDS`."""
    return b'data: {"type":"%b-start","id":"%b"}\n\n' % (kind, text_id)


def text_delta(kind: bytes, text_id: bytes, text: bytes) -> bytes:
    """Return the frame of a piece of text, which is JSON with its quotation marks."""
    return b'data: {"type":"%b-delta","id":"%b","delta":%b}\n\n' % (kind, text_id, text)


def text_end(kind: bytes, text_id: bytes) -> bytes:
    """Return the frame that ends a text."""
    return b'data: {"type":"%b-end","id":"%b"}\n\n' % (kind, text_id)


def whole_text(kind: bytes, text_id: bytes, text: bytes) -> bytes:
    """Return the frames of a whole text, which is JSON with its quotation marks."""
    begin, end = text_start(kind, text_id), text_end(kind, text_id)
    return begin + (text_delta(kind, text_id, text) if text != b'""' else b"") + end


def finish(version: Version, reason: str) -> bytes:
    """Return the frame that ends a UI message whose run has completed."""
    if not version.has_reasons:
        return frame({"type": "finish"})
    return frame({"type": "finish", "finishReason": _FINISH_REASONS.get(reason, "other")})


def abort(version: Version, reason: str) -> bytes:
    """Return the frame that ends a UI message whose run was cancelled."""
    return frame({"type": "abort", "reason": reason} if version.has_reasons else {"type": "abort"})


def error(text: str) -> bytes:
    """Return the frame that ends a UI message with an error."""
    return frame({"type": "error", "errorText": text})


LOST: Final = error("The stream was cut; the run goes on. Load the messages and resume.") + DONE
ENDED: Final = error("The session was deleted or closed while the answer was streamed.") + DONE
"""How a stream ends that the gateway ends before its run."""


# -- parts of a UI message --------------------------------------------------------------------


def content_parts(content: Any) -> list[dict[str, Any]]:
    """Return the content of a message of the gateway as a list of its parts."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return [part for part in content if isinstance(part, dict)]


def file_part(part: Mapping[str, Any], prefix: str) -> dict[str, Any] | None:
    """Return the part `file` for an image or a file of a message; None for anything else."""
    if part.get("type") not in {"image", "file"}:
        return None
    media_type = str(part.get("media_type") or "application/octet-stream")
    if part.get("file_id"):
        url = file_url(part["file_id"], prefix)
    elif part.get("data") is not None:
        url = f"data:{media_type};base64,{part['data']}"
    else:
        url = str(part.get("url") or "")
    shown = {"type": "file", "mediaType": media_type, "url": url}
    if part.get("name"):
        shown["filename"] = part["name"]
    return shown


def data_part(name: str, value: Any) -> dict[str, Any]:
    """Return the part of a `custom` event. A value with an `id` replaces an earlier one with it."""
    part: dict[str, Any] = {"type": f"data-{name}"}
    if isinstance(value, dict) and isinstance(value.get("id"), str):
        part["id"] = value["id"]
    return part | {"data": value}


def request_part(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data part of a request for input: what `GET /inputs` answers of it."""
    names = ("request_id", "kind", "prompt", "tool_call_id", "schema", "expires_at")
    data = {name: event[name] for name in names if event.get(name) is not None}
    return {"type": "data-input-required", "id": event["request_id"], "data": data}


def call_part(call: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a tool call without a result."""
    return {
        "type": f"tool-{call['name']}",
        "toolCallId": call["id"],
        "state": "input-available",
        "input": call["arguments"],
    }


def call_of(part: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tool call of a part, in the gateway's form."""
    name = part["type"].removeprefix("tool-")
    return {"id": part["toolCallId"], "name": name, "arguments": part["input"]}


def output_of(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result of a call, as a tool part has it, from any event that has one."""
    if event["type"] == "tool_error":
        return {"state": "output-error", "errorText": str(event["error"])}
    if event["type"] == "tool_complete":
        result = event["result"]
        if result.get("success", True):
            return {"state": "output-available", "output": result.get("content")}
        content = result.get("content")
        text = content if isinstance(content, str) else encode(content).decode()
        return {"state": "output-error", "errorText": text}
    message = event["message"]
    metadata, text = message.get("metadata") or {}, _text_of(message.get("content"))
    if metadata.get(ERROR_OUTPUT) or metadata.get("closed"):
        return {"state": "output-error", "errorText": text}
    if metadata.get(JSON_OUTPUT) is False:
        return {"state": "output-available", "output": text}
    return {"state": "output-available", "output": _value(text, any_kind=JSON_OUTPUT in metadata)}


def is_structured(text: str) -> bool:
    """Return whether a text is the JSON of an object or a list."""
    return _value(text, any_kind=False) is not text


def _value(text: str, *, any_kind: bool) -> Any:
    """Return what a text is as JSON, or the text: messages hold results of any kind as text."""
    if not any_kind and text[:1] not in {"{", "["}:
        return text
    read = object_in(f'{{"v":{text}}}')
    return text if read is None or len(read) != 1 else read["v"]


def _text_of(content: Any) -> str:
    return "".join(str(part.get("text", "")) for part in content_parts(content))


# -- frames of parts --------------------------------------------------------------------------


def input_frame(call: Mapping[str, Any]) -> bytes:
    """Return the frame of a whole tool call."""
    return frame(
        {
            "type": "tool-input-available",
            "toolCallId": call["id"],
            "toolName": call["name"],
            "input": call["arguments"],
        }
    )


def output_frame(call_id: str, output: Mapping[str, Any]) -> bytes:
    """Return the frame of a call's result, of `output_of`."""
    if output["state"] == "output-denied":
        return frame({"type": "tool-output-denied", "toolCallId": call_id})
    if output["state"] == "output-error":
        text = output["errorText"]
        return frame({"type": "tool-output-error", "toolCallId": call_id, "errorText": text})
    return frame(
        {"type": "tool-output-available", "toolCallId": call_id, "output": output["output"]}
    )


def approval_frame(request_id: str, call_id: str) -> bytes:
    """Return the frame that asks for the approval of a call."""
    return frame({"type": "tool-approval-request", "approvalId": request_id, "toolCallId": call_id})


def approved_frame(request_id: str, answer: Mapping[str, Any]) -> bytes:
    """Return the frame that says how a request for approval was answered."""
    part: dict[str, Any] = {"type": "tool-approval-response", "approvalId": request_id}
    part["approved"] = bool(answer.get("approved"))
    if isinstance(answer.get("reason"), str):
        part["reason"] = answer["reason"]
    return frame(part)


def file_frame(part: Mapping[str, Any]) -> bytes:
    """Return the frame of a part `file`; the protocol has no file name in it."""
    return frame({"type": "file", "url": part["url"], "mediaType": part["mediaType"]})


def frames_of(message: Mapping[str, Any], version: Version) -> Iterator[bytes]:
    """Yield the frames that make a UI message of the assistant in a client."""
    yield start(message["id"])
    is_in_step = False
    for number, part in enumerate(message["parts"]):
        kind = part["type"]
        if kind == "step-start":
            if is_in_step:
                yield FINISH_STEP
            is_in_step = True
            yield START_STEP
        elif kind in {"text", "reasoning"}:
            yield whole_text(kind.encode(), _text_id(part, number), encode(part["text"]))
        elif kind == "file":
            yield file_frame(part)
        elif kind.startswith("tool-"):
            yield from _call_frames(part, version)
        else:
            yield frame(part)
    if is_in_step:
        yield FINISH_STEP


def _text_id(part: Mapping[str, Any], number: int) -> bytes:
    return encode(part["id"])[1:-1] if "id" in part else b"p%d" % number


def _call_frames(part: Mapping[str, Any], version: Version) -> Iterator[bytes]:
    call_id, approval = part["toolCallId"], part.get("approval")
    yield input_frame(call_of(part))
    if approval is not None:
        yield approval_frame(approval["id"], call_id)
        if "approved" in approval and version.has_responses:
            yield approved_frame(approval["id"], approval)
    if part["state"].startswith("output-"):
        yield output_frame(call_id, part)
