"""Requests for input as AG-UI's interrupts, and the answers of `resume`."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from bamboo_gateway.wires.ag_ui.frames import present

_APPROVAL: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"approved": {"type": "boolean"}, "reason": {"type": "string"}},
    "required": ["approved"],
}
_SCHEMAS: Final[Mapping[str, dict[str, Any]]] = {
    "approval": _APPROVAL,
    "question": {"type": "string"},
    "form": {"type": "object"},
}
"""The schema of an answer that has none of its own."""


_REASONS: Final[Mapping[str, str]] = {
    "approval": "confirmation",
    "question": "input_required",
    "form": "input_required",
}
"""The protocol's own reasons; a request about a call is a `tool_call`."""


def interrupt_of(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return the interrupt of an `input_required` event."""
    kind = event["kind"]
    return present(
        {
            "id": event["request_id"],
            "reason": "tool_call" if event.get("tool_call_id") else _REASONS[kind],
            "message": event["prompt"],
            "toolCallId": event.get("tool_call_id"),
            "responseSchema": event.get("schema") or _SCHEMAS[kind],
            "expiresAt": event.get("expires_at"),
        }
    )


def interrupt_outcome(events: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the outcome of a run that has asked."""
    return {"type": "interrupt", "interrupts": [interrupt_of(event) for event in events]}
