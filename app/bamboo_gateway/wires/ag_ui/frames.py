"""The frames of AG-UI: `data: {…}` with LF line ends; members without a value are left out.

Clients split the stream at blank lines and read CRLF as part of the JSON. A null where a member may
be absent ends their run.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from bamboo_gateway.domain.codec import encode
from bamboo_gateway.sessions.streaming.rendering import GoodbyeReason

PROTOCOL_VERSION: Final = "1.0"
PING: Final = b": ping\n"
"""A comment without a blank line: clients ignore it."""

_REASONS: Final[Mapping[str, str]] = {
    "shutdown": "The gateway is shutting down. The run goes on or is closed; connect again.",
    "superseded": "A newer connection has taken the place of this one.",
    "deleted": "The thread was deleted.",
    "closed": "The thread is closed.",
    "slow": "This client read too slowly. The run goes on; connect again.",
    "lifetime": "This connection was open for as long as one may be. The run goes on; connect "
    "again.",
    "unauthorized": "The credential is not valid any more. The run goes on; connect again with "
    "another one.",
}


def frame(event: Mapping[str, Any]) -> bytes:
    """Return the frame of an event."""
    return b"data: %b\n\n" % encode(event)


def present(members: Mapping[str, Any]) -> dict[str, Any]:
    """Return the members that have a value."""
    return {name: value for name, value in members.items() if value is not None}


def run_started(thread_id: str, run_id: str) -> bytes:
    """Return RUN_STARTED."""
    return frame(
        {
            "type": "RUN_STARTED",
            "threadId": thread_id,
            "runId": run_id,
            "protocolVersion": PROTOCOL_VERSION,
        }
    )


def run_finished(
    thread_id: str,
    run_id: str,
    outcome: Mapping[str, Any],
    usage: Mapping[str, Any] | None = None,
) -> bytes:
    """Return RUN_FINISHED."""
    event: dict[str, Any] = {"type": "RUN_FINISHED", "threadId": thread_id, "runId": run_id}
    event["outcome"] = outcome
    if usage:
        event["usage"] = [usage]
    return frame(event)


def run_error(message: str, code: str) -> bytes:
    """Return RUN_ERROR."""
    return frame({"type": "RUN_ERROR", "message": message, "code": code})


def goodbye(reason: GoodbyeReason) -> bytes:
    """Return the RUN_ERROR of a stream that the gateway ends before its run has ended.

    A stream that only ends would be a whole answer to the client.
    """
    return run_error(_REASONS[reason], f"stream_{reason}")


def messages_snapshot(messages: Iterable[bytes]) -> bytes:
    """Return MESSAGES_SNAPSHOT with messages that are encoded already."""
    return b'data: {"type":"MESSAGES_SNAPSHOT","messages":[%b]}\n\n' % b",".join(messages)


def content_begin(kind: str, message_id: str) -> bytes:
    """Return a frame of text or reasoning up to the encoded text, which `CONTENT_END` follows."""
    name = b"TEXT_MESSAGE_CONTENT" if kind == "token" else b"REASONING_MESSAGE_CONTENT"
    return b'data: {"type":"%b","messageId":%b,"delta":"' % (name, encode(message_id))


CONTENT_END: Final = b'"}\n\n'


def message_start(message_id: str, role: str) -> bytes:
    """Return TEXT_MESSAGE_START."""
    return frame({"type": "TEXT_MESSAGE_START", "messageId": message_id, "role": role})


def message_end(message_id: str) -> bytes:
    """Return TEXT_MESSAGE_END."""
    return frame({"type": "TEXT_MESSAGE_END", "messageId": message_id})


def reasoning_start(message_id: str) -> bytes:
    """Return the two events that begin a piece of reasoning."""
    return frame({"type": "REASONING_START", "messageId": message_id}) + frame(
        {"type": "REASONING_MESSAGE_START", "messageId": message_id, "role": "reasoning"}
    )


def reasoning_end(message_id: str) -> bytes:
    """Return the two events that end it."""
    return frame({"type": "REASONING_MESSAGE_END", "messageId": message_id}) + frame(
        {"type": "REASONING_END", "messageId": message_id}
    )


def tool_call(call_id: str, name: str, arguments: Any, parent_id: str) -> bytes:
    """Return a whole tool call; arguments that are no JSON are passed on as they are."""
    text = arguments if isinstance(arguments, str) else encode(arguments).decode()
    return (
        frame(
            {
                "type": "TOOL_CALL_START",
                "toolCallId": call_id,
                "toolCallName": name,
                "parentMessageId": parent_id,
            }
        )
        + (frame({"type": "TOOL_CALL_ARGS", "toolCallId": call_id, "delta": text}) if text else b"")
        + frame({"type": "TOOL_CALL_END", "toolCallId": call_id})
    )


def tool_result(message_id: str, call_id: str, content: Any) -> bytes:
    """Return TOOL_CALL_RESULT."""
    return frame(
        {
            "type": "TOOL_CALL_RESULT",
            "messageId": message_id,
            "toolCallId": call_id,
            "content": content,
            "role": "tool",
        }
    )


def custom(name: str, value: Any) -> bytes:
    """Return CUSTOM."""
    return frame({"type": "CUSTOM", "name": name, "value": value})
