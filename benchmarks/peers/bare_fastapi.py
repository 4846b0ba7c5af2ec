"""The same small routes in bare FastAPI: a dict in memory, no checks, no middleware, no log."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.peers.handwritten import run_uvicorn

app = FastAPI()
_sessions: dict[str, dict[str, Any]] = {}


class NewSession(BaseModel):
    """What creates a session."""

    id: str
    title: str | None = None
    user_id: str | None = None
    metadata: dict[str, Any] = {}


class NewMessage(BaseModel):
    """What is said."""

    role: str
    content: str


@app.get("/api/v1/health/live")
async def live() -> dict[str, str]:
    """Answers."""
    return {"status": "ok", "detail": "alive"}


@app.post("/api/v1/sessions", status_code=201)
async def create_session(new: NewSession) -> dict[str, Any]:
    """Keep a session of the gateway's shape."""
    session = _sessions[new.id] = {
        **_BLANK,
        **new.model_dump(),
        "messages": [],
        "stream_url": f"/api/v1/stream/{new.id}",
    }
    return {name: value for name, value in session.items() if name != "messages"}


@app.get("/api/v1/sessions/{session_id}")
async def get_session(session_id: str) -> dict[str, Any]:
    """Return a session."""
    session = _sessions[session_id]
    return {name: value for name, value in session.items() if name != "messages"}


@app.post("/api/v1/sessions/{session_id}/messages", status_code=201)
async def add_message(session_id: str, message: NewMessage) -> dict[str, Any]:
    """Keep a message."""
    messages = _sessions[session_id]["messages"]
    made = {"id": f"msg_{len(messages)}", **message.model_dump(), "status": "complete"}
    messages.append(made)
    return {"messages": [made], "position": f"1-{len(messages)}"}


@app.get("/api/v1/sessions/{session_id}/messages")
async def messages(session_id: str, limit: int = 100) -> dict[str, Any]:
    """Return messages."""
    found = _sessions[session_id]["messages"]
    return {"messages": found[:limit], "next_cursor": None, "has_more": len(found) > limit}


_BLANK: dict[str, Any] = {
    "session_type": "user",
    "state": "idle",
    "working_dir": None,
    "created_at": "2026-11-20T17:25:00.123Z",
    "updated_at": "2026-11-20T17:25:00.123Z",
    "last_activity_at": "2026-11-20T17:25:00.123Z",
    "expires_at": None,
    "ttl_seconds": None,
    "message_count": 0,
    "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    "extension_data": {},
    "parent": None,
    "position": "1763661234567-7",
    "active_run_id": None,
}


def serve(config: dict[str, Any], announce: Callable[[int, int], None]) -> None:
    """Run it until it is killed."""
    run_uvicorn(app, announce)
