"""A conversation: its session, messages, runs, events and stream."""

from typing import Any, Final

SESSION_ID: Final = "s-1"
RUN_ID: Final = "run_01kag8v3c0d6q0w1x2y3z4a5b6"
POSITION: Final = "1763661234567-7"
STREAM_URL: Final = f"/api/v1/stream/{SESSION_ID}?after=1763661234567-3"
USAGE: Final = {
    "prompt_tokens": 12,
    "completion_tokens": 30,
    "cached_tokens": 0,
    "reasoning_tokens": 0,
    "total_tokens": 42,
}

SESSION: Final[dict[str, Any]] = {
    "id": SESSION_ID,
    "title": "My chat",
    "user_id": "user-123",
    "session_type": "user",
    "state": "idle",
    "working_dir": None,
    "created_at": "2026-11-20T17:25:00.123Z",
    "updated_at": "2026-11-20T17:26:10.004Z",
    "last_activity_at": "2026-11-20T17:26:10.004Z",
    "expires_at": None,
    "ttl_seconds": None,
    "message_count": 2,
    "preview": "Hello! How can I help?",
    "usage": USAGE,
    "metadata": {"project": "bamboo"},
    "extension_data": {},
    "parent": None,
    "position": POSITION,
    "active_run_id": None,
    "open_requests": [],
    "stream_url": f"/api/v1/stream/{SESSION_ID}?after={POSITION}",
}

USER_MESSAGE: Final[dict[str, Any]] = {
    "id": "msg_01kag8v3c0d6q0w1x2y3z4a5b7",
    "parent_id": None,
    "branch_id": "main",
    "role": "user",
    "content": "Hello!",
    "status": "complete",
    "created_at": "2026-11-20T17:25:00.123Z",
    "metadata": {},
}

ASSISTANT_MESSAGE: Final[dict[str, Any]] = {
    "id": "msg_01kag8v3c0d6q0w1x2y3z4a5b8",
    "parent_id": "msg_01kag8v3c0d6q0w1x2y3z4a5b7",
    "branch_id": "main",
    "role": "assistant",
    "content": "Hello! How can I help?",
    "status": "complete",
    "run_id": RUN_ID,
    "created_at": "2026-11-20T17:25:02.000Z",
    "metadata": {},
}

AGENTS: Final[dict[str, Any]] = {
    "agents": [
        {
            "name": "default",
            "kind": "openai",
            "model": "gpt-4o-mini",
            "description": "Answers questions about the shop.",
            "is_default": True,
            "options": {
                "type": "object",
                "properties": {"temperature": {"type": "number", "minimum": 0, "maximum": 2}},
                "additionalProperties": False,
            },
        }
    ]
}
BRANCHES: Final[list[dict[str, Any]]] = [
    {
        "branch_id": "main",
        "parent_branch_id": None,
        "from_message_id": None,
        "tip_message_id": ASSISTANT_MESSAGE["id"],
        "message_count": 2,
        "created_at": "2026-11-20T17:25:00.123Z",
        "current": False,
    },
    {
        "branch_id": "branch_01kag8v3c0d6q0w1x2y3z4a5b9",
        "parent_branch_id": "main",
        "from_message_id": USER_MESSAGE["id"],
        "tip_message_id": "msg_01kag8v3c0d6q0w1x2y3z4a5ba",
        "message_count": 2,
        "created_at": "2026-11-20T17:27:00.000Z",
        "current": True,
    },
]
REGENERATIONS: Final[dict[str, Any]] = {
    "last": {"summary": "The last answer", "value": {}},
    "named": {
        "summary": "An earlier answer, by another agent",
        "value": {"message_id": ASSISTANT_MESSAGE["id"], "agent": "other"},
    },
}

SEARCHED: Final[dict[str, Any]] = {
    "words": {"summary": "Both words, anywhere", "value": "help hello"},
    "phrase": {"summary": "A phrase", "value": '"can I help"'},
}
FOUND: Final[dict[str, Any]] = {
    "results": [
        {
            "session_id": SESSION_ID,
            "title": SESSION["title"],
            "message_id": ASSISTANT_MESSAGE["id"],
            "role": "assistant",
            "created_at": ASSISTANT_MESSAGE["created_at"],
            "position": POSITION,
            "snippet": ASSISTANT_MESSAGE["content"],
            "ranges": [[0, 5], [17, 21]],
        }
    ],
    "next_cursor": None,
    "has_more": False,
}

CHATS: Final[dict[str, Any]] = {
    "words": {
        "summary": "In a session; it is created when there is none",
        "value": {"session_id": SESSION_ID, "message": "Hello!"},
    },
    "first": {
        "summary": "In a new session, with its title and metadata",
        "value": {
            "message": {"role": "user", "content": [{"type": "text", "text": "Hello!"}]},
            "user_id": "user-123",
            "title": "My chat",
            "metadata": {"project": "bamboo"},
        },
    },
    "edit": {
        "summary": "In the place of a user's message, in a new branch",
        "value": {
            "session_id": SESSION_ID,
            "message": "Good morning!",
            "edit_message_id": USER_MESSAGE["id"],
        },
    },
    "tool": {
        "summary": "The result of a tool that the client runs",
        "value": {
            "session_id": SESSION_ID,
            "message": [{"role": "tool", "tool_call_id": "call_1", "content": "42"}],
            "on_busy": "reject",
        },
    },
}

SESSIONS: Final[dict[str, Any]] = {
    "named": {
        "summary": "With an id of the client's",
        "value": {"id": SESSION_ID, "title": "My chat", "metadata": {"project": "bamboo"}},
    },
    "made": {"summary": "With an id that the gateway makes", "value": {"ttl_seconds": 86400}},
}

PATCHES: Final[dict[str, Any]] = {
    "title": {"summary": "Another title", "value": {"title": "Bamboo"}},
    "merge": {
        "summary": "Change one entry of the metadata, remove another",
        "value": {"metadata": {"project": "gateway", "draft": None}},
    },
}

REOPENS: Final[dict[str, Any]] = {
    "ttl": {"summary": "For another day", "value": {"ttl_seconds": 86400}},
    "for_good": {"summary": "Until somebody deletes it", "value": {"ttl_seconds": None}},
}

NEW_MESSAGES: Final[dict[str, Any]] = {
    "one": {"summary": "One message", "value": {"role": "user", "content": "Hello!"}},
    "list": {
        "summary": "A list, all or nothing",
        "value": [
            {"role": "user", "content": "What is 6 times 7?"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": "call_1", "name": "multiply", "arguments": {"a": 6, "b": 7}}],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "42"},
        ],
    },
}

NEW_RUNS: Final[dict[str, Any]] = {
    "external": {
        "summary": "A run whose events an external program posts",
        "value": {"agent": "external"},
    }
}

INPUTS: Final[dict[str, Any]] = {
    "approval": {
        "summary": "Approve a tool call",
        "value": {"answers": {"req_01kag8v3c0d6q0w1x2y3z4a5c1": {"approved": True}}},
    },
    "refusal": {
        "summary": "Refuse one request, and answer another",
        "value": {
            "answers": {
                "req_01kag8v3c0d6q0w1x2y3z4a5c1": {"approved": False, "reason": "Too expensive"},
                "colour": "blue",
            }
        },
    },
}

OPEN_INPUT: Final[dict[str, Any]] = {
    "request_id": "req_01kag8v3c0d6q0w1x2y3z4a5c1",
    "kind": "approval",
    "prompt": "Pay 9 EUR to ACME?",
    "run_id": RUN_ID,
    "tool_call_id": "call_1",
    "schema": None,
    "asked_at": "2026-11-20T17:25:02.000Z",
    "expires_at": None,
}

INPUTS_ACCEPTED: Final[dict[str, Any]] = {
    "session_id": SESSION_ID,
    "run_id": RUN_ID,
    "position": "1763661234567-3",
    "stream_url": f"{STREAM_URL}&run_id={RUN_ID}",
}

INPUTS_COMPLETED: Final[dict[str, Any]] = INPUTS_ACCEPTED | {
    "status": "completed",
    "usage": USAGE,
    "error": None,
    "message": ASSISTANT_MESSAGE,
}

CHAT_ACCEPTED: Final[dict[str, Any]] = {
    "session_id": SESSION_ID,
    "run_id": RUN_ID,
    "message_ids": [USER_MESSAGE["id"]],
    "status": "running",
    "position": "1763661234567-3",
    "stream_url": f"{STREAM_URL}&run_id={RUN_ID}",
}

CHAT_COMPLETED: Final[dict[str, Any]] = CHAT_ACCEPTED | {
    "status": "completed",
    "message": ASSISTANT_MESSAGE,
    "usage": USAGE,
    "error": None,
}

RUN: Final[dict[str, Any]] = {
    "run_id": RUN_ID,
    "session_id": SESSION_ID,
    "agent": "default",
    "status": "completed",
    "position": "1763661234567-3",
    "message_ids": [USER_MESSAGE["id"]],
    "created_at": "2026-11-20T17:25:00.123Z",
    "started_at": "2026-11-20T17:25:00.123Z",
    "ended_at": "2026-11-20T17:25:02.000Z",
    "usage": USAGE,
    "finish_reason": "stop",
    "error": None,
    "stream_url": f"{STREAM_URL}&run_id={RUN_ID}",
}

RUN_CANCELLED: Final[dict[str, Any]] = RUN | {
    "status": "cancelled",
    "usage": None,
    "finish_reason": None,
}

EXTERNAL_RUN: Final[dict[str, Any]] = RUN | {
    "agent": "external",
    "status": "running",
    "message_ids": [],
    "ended_at": None,
    "usage": None,
    "finish_reason": None,
}

TOKEN_EVENT: Final[dict[str, Any]] = {
    "type": "token",
    "seq": 6,
    "time": "2026-11-20T17:25:01.000Z",
    "run_id": RUN_ID,
    "message_id": ASSISTANT_MESSAGE["id"],
    "content": "Hel",
}

CUSTOM_EVENT: Final[dict[str, Any]] = {
    "type": "custom",
    "name": "progress",
    "value": {"percent": 40},
}

EVENTS_APPENDED: Final[dict[str, Any]] = {
    "first": "1763661234567-8",
    "last": "1763661234567-9",
    "count": 2,
}

CONNECTION: Final[dict[str, Any]] = {
    "connection_id": "c_01kag8v3c0d6q0w1x2y3z4a5b6",
    "session_id": SESSION_ID,
    "since": "2026-11-20T17:25:00.500Z",
    "position": POSITION,
    "lag_events": 0,
    "remote_address": "127.0.0.1:50712",
}

_TICKET: Final = "eyJhbGciOiJIUzI1NiJ9.eyJzaWQiOiJzLTEifQ.c2lnbmF0dXJl"
TICKET: Final[dict[str, Any]] = {
    "ticket": _TICKET,
    "expires_at": "2026-11-20T17:26:00.000Z",
    "stream_url": f"/api/v1/stream/{SESSION_ID}?after={POSITION}&ticket={_TICKET}",
}

CHANGES: Final = {
    "changes": [
        {
            "type": "session_changed",
            "session_id": SESSION_ID,
            "position": POSITION,
            "state": "active",
            "title": "My chat",
            "preview": "Hello!",
            "updated_at": "2026-11-20T17:25:00.123Z",
            "active_run_id": RUN_ID,
        },
        {"type": "session_gone", "session_id": "s-2"},
    ],
    "next": "WyJmODFkNGZhZTdkZWMxMWQwIiw0MiwxNzYzNjYxMjM0NTY3LCIiXQ",
    "has_more": False,
}

CHANGE_STREAM: Final = (
    "id: WyJmODFkNGZhZTdkZWMxMWQwIiw0MSwxNzYzNjYxMjM0NTY3LCIiXQ\n"
    "retry: 1000\n"
    'data: {"type":"open","connection_id":"c_01kag8v3c0d6q0w1x2y3z4a5b6"}\n'
    "\n"
    "id: WyJmODFkNGZhZTdkZWMxMWQwIiw0MiwxNzYzNjYxMjM0NTY3LCIiXQ\n"
    'data: {"type":"session_gone","session_id":"s-2"}\n'
    "\n"
    ": ping\n"
)

JOINT_STREAM: Final = (
    "id: AY0vkqkK4MbW7sOzxjI.H.A\n"
    "retry: 1000\n"
    f'data: {{"type":"open","session_id":"{SESSION_ID}",'
    f'"connection_id":"c_01kag8v3c0d6q0w1x2y3z4a5b6",'
    f'"position":"{POSITION}","active_run_id":null}}\n'
    "\n"
    "id: AY0vkqkK4MbW7sOzxjI.I.A\n"
    f'data: {{"session_id":"{SESSION_ID}","type":"custom","seq":8,'
    '"time":"2026-11-20T17:26:00.000Z","name":"progress","value":{"percent":40}}\n'
    "\n"
    "id: AY0vkqkK4MbW7sOzxjI.I.A\n"
    'data: {"type":"goodbye","session_id":"s-2","reason":"deleted","retry":false}\n'
    "\n"
    ": ping\n"
)

STREAM: Final = (
    f"id: {POSITION}\n"
    "retry: 1000\n"
    f'data: {{"type":"open","session_id":"{SESSION_ID}",'
    f'"connection_id":"c_01kag8v3c0d6q0w1x2y3z4a5b6",'
    f'"position":"{POSITION}","active_run_id":null}}\n'
    "\n"
    "id: 1763661234567-8\n"
    'data: {"type":"custom","seq":8,"time":"2026-11-20T17:26:00.000Z","name":"progress",'
    '"value":{"percent":40}}\n'
    "\n"
    ": ping\n"
)
