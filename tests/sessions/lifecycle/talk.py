"""Short words for conversations that tests make, without and with HTTP."""

import json
from typing import Any

import httpx

from bamboo_gateway.sessions.commands import NewMessage, NewSession, Outcome
from tests.support.gateways import ME, Gateway


async def say(gate: Gateway, session_id: str, *messages: NewMessage) -> list[str]:
    """Add messages; return their ids."""
    answer = (await gate.manager.add_messages(ME, session_id, list(messages))).answer
    return [message["id"] for message in answer["messages"]]


async def talk(gate: Gateway, session_id: str, *texts: str, **fields: Any) -> list[str]:
    """Make a session of user messages; return their ids."""
    await gate.manager.create_session(ME, NewSession(id=session_id, **fields))
    return await say(gate, session_id, *(NewMessage("user", text) for text in texts))


async def texts(gate: Gateway, session_id: str) -> list[str]:
    """Return what was said, in order."""
    return [message["content"] for message in await gate.messages(session_id)]


async def ids(gate: Gateway, session_id: str) -> list[str]:
    """Return the ids of the messages, in order."""
    return [message["id"] for message in await gate.messages(session_id)]


async def resumed_message(gate: Gateway, session_id: str, **options: bool) -> dict[str, Any]:
    """Return the message that carries a session into a new context."""
    pieces = await gate.manager.resume(ME, session_id, **options)
    message: dict[str, Any] = json.loads(b"".join([piece async for piece in pieces]))["message"]
    return message


def exchange(*call_ids: str) -> list[NewMessage]:
    """Return a whole tool exchange: calls and their results."""
    calls = [{"id": call, "name": "look", "arguments": {"at": call}} for call in call_ids]
    return [
        NewMessage("assistant", "", tool_calls=calls),
        *(NewMessage("tool", f"result {call}", tool_call_id=call) for call in call_ids),
    ]


def answer(outcome: Outcome) -> Any:
    return outcome.answer


def create(api: httpx.Client, session_id: str, *texts: str, **fields: Any) -> list[str]:
    """Make a session over HTTP; return the ids of its messages."""
    assert api.post("/sessions", json={"id": session_id, **fields}).status_code == 201
    if not texts:
        return []
    said = [{"role": "user", "content": text} for text in texts]
    sent = api.post(f"/sessions/{session_id}/messages", json=said)
    assert sent.status_code == 201
    return [message["id"] for message in sent.json()["messages"]]


def said(api: httpx.Client, session_id: str) -> list[dict[str, Any]]:
    """Return the messages of a session over HTTP."""
    found: list[dict[str, Any]] = api.get(
        f"/sessions/{session_id}/messages", params={"limit": 1000}
    ).json()["messages"]
    return found
