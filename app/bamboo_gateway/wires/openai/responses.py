"""The Response of the protocol, made of a run.

What a client has asked for and the gateway does not need stays in the metadata of the input's last
message, under `ASKED`: so the log has it, and a response is shown the same for ever.
"""

from collections.abc import Mapping
from typing import Any, Final

from bamboo_gateway.domain.clock import parse_ms
from bamboo_gateway.domain.views import RunView
from bamboo_gateway.sessions.run_records import RunRecord
from bamboo_gateway.wires.openai.ids import conversation_id, response_id
from bamboo_gateway.wires.openai.items import Item, client_tools, output_items

ASKED: Final = "openai"
"""The member of a message's metadata with what the request had."""

_DEFAULTS: Final[Mapping[str, Any]] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": "default",
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "background": False,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
_INCOMPLETE: Final[Mapping[str | None, str]] = {
    "length": "max_output_tokens",
    "content_filter": "content_filter",
}


def asked_of(record: RunRecord) -> dict[str, Any]:
    """Return what the request had that began the run."""
    for message in reversed(record.input):
        found = (message.get("metadata") or {}).get(ASKED)
        if isinstance(found, dict):
            return found
    return {}


def tool_names(record: RunRecord) -> frozenset[str]:
    """Return the names of the tools that the client brought.

    Clients of the gateway's own API may write into metadata what they like. A run that goes on with
    answers has the tools of the run that asked.
    """
    tools = asked_of(record).get("tools")
    given = tools if isinstance(tools, list) else []
    names = [tool.get("name") for tool in given if isinstance(tool, dict)]
    own = frozenset(name for name in names if isinstance(name, str))
    return own | client_tools(record.answered)


def response_of(record: RunRecord, output: list[Item] | None = None) -> dict[str, Any]:
    """Return the Response of a run.

    Args:
        record: The run.
        output: Its items; None: those of the record.
    """
    run, asked = record.run, asked_of(record)
    if output is None:
        output = output_items(record, tool_names(record))
    known = {name: asked[name] for name in _DEFAULTS if name in asked}
    completed = run["ended_at"] if run["status"] == "completed" else None
    return {
        "id": response_id(run["session_id"], run["run_id"]),
        "object": "response",
        "created_at": _seconds(run["created_at"]),
        "completed_at": _seconds(completed) if completed is not None else None,
        "status": status_of(run),
        "error": _error(run),
        "incomplete_details": _incomplete(run),
        "model": run["agent"],
        "output": output,
        "usage": usage_of(run),
        **_DEFAULTS,
        **known,
        "conversation": {"id": conversation_id(run["session_id"])},
    }


def begun_response(record: RunRecord, status: str) -> dict[str, Any]:
    """Return the Response of a run that has not ended: with this status, and nothing in it."""
    nothing = {"usage": None, "error": None, "incomplete_details": None, "completed_at": None}
    return {**response_of(record, []), **nothing, "status": status}


def status_of(run: RunView) -> str:
    """Return the status of a run in the words of the protocol."""
    match run["status"]:
        case "queued":
            return "queued"
        case "running":
            return "in_progress"
        case "completed":
            return "incomplete" if run["finish_reason"] in _INCOMPLETE else "completed"
        case "cancelled":
            return "cancelled"
        case _:
            return "failed"


def usage_of(run: RunView) -> dict[str, Any] | None:
    """Return what a run cost; None when its agent has not said."""
    usage = run["usage"]
    if usage is None:
        return None
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {
            "cached_tokens": usage["cached_tokens"],
            "cache_write_tokens": 0,
        },
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": usage["reasoning_tokens"]},
        "total_tokens": usage["total_tokens"],
    }


def _error(run: RunView) -> dict[str, Any] | None:
    error = run["error"]
    if error is None:
        return None
    # The protocol has a fixed list of codes; the gateway's own is in the words.
    return {"code": "server_error", "message": f"{error['message']} ({error['code']})"}


def _incomplete(run: RunView) -> dict[str, Any] | None:
    reason = _INCOMPLETE.get(run["finish_reason"])
    return {"reason": reason} if reason is not None else None


def _seconds(time: str) -> int:
    return parse_ms(time) // 1000
