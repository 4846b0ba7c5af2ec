"""The rules of an OpenAI-compatible server, without the program's own code."""

from typing import Any


def accepted_by_upstreams(messages: list[dict[str, Any]]) -> set[str]:
    """Fail unless each call has its one result before anything else; return those still open."""
    waiting: set[str] = set()
    for message in messages:
        if message["role"] == "tool":
            assert message["tool_call_id"] in waiting, "a result that nothing waits for"
            waiting.remove(message["tool_call_id"])
            continue
        assert not waiting, f"{message['role']} while {waiting} wait"
        calls = [call["id"] for call in message.get("tool_calls") or ()]
        assert len(set(calls)) == len(calls)
        waiting |= set(calls)
    return waiting
