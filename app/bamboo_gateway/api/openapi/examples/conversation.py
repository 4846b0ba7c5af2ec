"""One conversation, from which all examples of the OpenAPI document are taken."""

from typing import Any, Final

SESSION_ID: Final = "s-1"
RUN_ID: Final = "run_01kag8v3c0d6q0w1x2y3z4a5b6"
POSITION: Final = "1763661234567-7"
STREAM_URL: Final = f"/api/v1/stream/{SESSION_ID}?after=1763661234567-3"
USAGE: Final = {"prompt_tokens": 12, "completion_tokens": 30, "total_tokens": 42}

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
    "usage": USAGE,
    "metadata": {"project": "bamboo"},
    "extension_data": {},
    "parent": None,
    "position": POSITION,
    "active_run_id": None,
    "stream_url": f"/api/v1/stream/{SESSION_ID}?after={POSITION}",
}

USER_MESSAGE: Final[dict[str, Any]] = {
    "id": "msg_01kag8v3c0d6q0w1x2y3z4a5b7",
    "role": "user",
    "content": "Hello!",
    "status": "complete",
    "created_at": "2026-11-20T17:25:00.123Z",
    "metadata": {},
}

ASSISTANT_MESSAGE: Final[dict[str, Any]] = {
    "id": "msg_01kag8v3c0d6q0w1x2y3z4a5b8",
    "role": "assistant",
    "content": "Hello! How can I help?",
    "status": "complete",
    "run_id": RUN_ID,
    "created_at": "2026-11-20T17:25:02.000Z",
    "metadata": {},
}

CHATS: Final[dict[str, Any]] = {
    "words": {
        "summary": "In a session, which is created if there is none",
        "value": {"session_id": SESSION_ID, "message": "Hello!"},
    },
    "first": {
        "summary": "In a new session, with what it is created with",
        "value": {
            "message": {"role": "user", "content": [{"type": "text", "text": "Hello!"}]},
            "user_id": "user-123",
            "title": "My chat",
            "metadata": {"project": "bamboo"},
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
        "summary": "Under an id of the client's",
        "value": {"id": SESSION_ID, "title": "My chat", "metadata": {"project": "bamboo"}},
    },
    "made": {"summary": "Under an id that the gateway makes", "value": {"ttl_seconds": 86400}},
}

PATCHES: Final[dict[str, Any]] = {
    "title": {"summary": "Another title", "value": {"title": "Bamboo"}},
    "merge": {
        "summary": "One entry of the metadata changed, one taken away",
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
        "summary": "A run whose events a program outside posts",
        "value": {"agent": "external"},
    }
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

ARCHIVED: Final[dict[str, Any]] = {
    "session": SESSION | {"state": "archived"},
    "archived_at": "2026-11-21T08:00:00.000Z",
    "bytes": 2_410,
    "original_bytes": 18_204,
}

BULK_IDS: Final[dict[str, Any]] = {
    "two": {"summary": "Two sessions", "value": {"session_ids": [SESSION_ID, "s-2"]}}
}
FAILED: Final[dict[str, Any]] = {
    "session_id": "s-2",
    "code": "run-active",
    "detail": "A run is executing or queued; cancel it first.",
}

EXPORT_FILES: Final[dict[str, Any]] = {
    "file": {
        "summary": "Markdown, to a file under export_dir",
        "value": {"format": "markdown", "path": "reports/a.md"},
    }
}
EXPORT_ZIPS: Final[dict[str, Any]] = {
    "zip": {
        "summary": "Two sessions as JSON in a zip",
        "value": {"session_ids": [SESSION_ID, "s-2"], "format": "json"},
    }
}

SHARES: Final[dict[str, Any]] = {
    "user": {"summary": "With one user", "value": {"user_id": "user-456"}},
    "link": {
        "summary": "With whoever has the link, for a day",
        "value": {"link": True, "expires_in": 86_400},
    },
}
SHARE: Final[dict[str, Any]] = {
    "id": "share_01kag8v3c0d6q0w1x2y3z4a5b6",
    "user_id": "user-456",
    "created_at": "2026-11-20T17:25:00.123Z",
    "expires_at": None,
}
LINK_SHARE: Final[dict[str, Any]] = SHARE | {
    "user_id": None,
    "expires_at": "2026-11-21T17:25:00.123Z",
    "token": "link_cy0x.WJ6wq0pX0m3u5c9bN1zq3nV7yTn2w8kqfE4rGd1hJ0s",
}
FORKS: Final[dict[str, Any]] = {
    "all": {"summary": "The whole conversation", "value": {}},
    "at": {
        "summary": "Up to and including one message",
        "value": {"from_message_id": USER_MESSAGE["id"], "new_name": "Another try"},
    },
}
FORK: Final[dict[str, Any]] = SESSION | {
    "id": "s-2",
    "title": "My chat (fork)",
    "parent": {
        "session_id": SESSION_ID,
        "message_id": ASSISTANT_MESSAGE["id"],
        "position": POSITION,
    },
}
MERGES: Final[dict[str, Any]] = {
    "append": {"summary": "What the fork has said since", "value": {"source_id": "s-2"}},
    "interleave": {
        "summary": "By time, with usage added up",
        "value": {"source_id": "s-2", "strategy": "interleave", "metadata_strategy": "merge"},
    },
}
TREE: Final[dict[str, Any]] = {
    "session_id": SESSION_ID,
    "title": "My chat",
    "state": "idle",
    "created_at": "2026-11-20T17:25:00.123Z",
    "forked_at": None,
    "merged_from": [],
    "branches": [
        {
            "session_id": "s-2",
            "title": "My chat (fork)",
            "state": "idle",
            "created_at": "2026-11-20T18:00:00.000Z",
            "forked_at": POSITION,
            "merged_from": [],
            "branches": [],
        }
    ],
    "current": SESSION_ID,
    "truncated": False,
}

SUMMARIES: Final[dict[str, Any]] = {
    "summary": {
        "summary": "A summary of everything so far",
        "value": {"summary": "The user said hello.", "turn_count": 1},
    }
}
SUMMARY: Final[dict[str, Any]] = {
    "session_id": SESSION_ID,
    "summary": "The user said hello.",
    "turn_count": 1,
    "position": POSITION,
    "created_at": "2026-11-20T17:30:00.000Z",
}
WRITE_SUMMARIES: Final[dict[str, Any]] = {
    "default": {"summary": "By the default agent", "value": {}},
    "named": {"summary": "By another one", "value": {"agent": "cheap"}},
}

STATISTICS: Final[dict[str, Any]] = {
    "session_id": SESSION_ID,
    "total_messages": 2,
    "user_messages": 1,
    "assistant_messages": 1,
    "tool_messages": 0,
    "tool_calls": 0,
    "tool_errors": 0,
    "runs": {
        "queued": 0,
        "running": 0,
        "completed": 1,
        "failed": 0,
        "cancelled": 0,
        "interrupted": 0,
    },
    **USAGE,
    "duration_seconds": 1.877,
    "active_seconds": 1.877,
    "first_message_at": "2026-11-20T17:25:00.123Z",
    "last_message_at": "2026-11-20T17:25:02.000Z",
}
REPORT: Final[dict[str, Any]] = {
    "session_id": SESSION_ID,
    "title": "My chat",
    "user_id": "user-123",
    "session_type": "user",
    "state": "idle",
    "working_dir": None,
    "created_at": "2026-11-20T17:25:00.123Z",
    "last_activity_at": "2026-11-20T17:26:10.004Z",
    "parent": None,
    "merged_from": [],
    "has_summary": False,
    "statistics": STATISTICS,
}
_BRIEF: Final[dict[str, Any]] = {
    "session_id": SESSION_ID,
    "title": "My chat",
    "created_at": "2026-11-20T17:25:00.123Z",
    "message_count": 2,
}
OVERVIEW: Final[dict[str, Any]] = {
    "sessions": 1,
    "by_type": {"user": 1},
    "by_state": {"idle": 1},
    "by_day": {"2026-11-20": 1},
    "total_messages": 2,
    "tool_calls": 0,
    "runs": 1,
    **USAGE,
    "oldest": _BRIEF,
    "newest": _BRIEF,
    "most_active": [_BRIEF],
}

CLEANUPS: Final[dict[str, Any]] = {
    "look": {"summary": "What would go", "value": {"dry_run": True}},
    "before": {
        "summary": "All without activity since then",
        "value": {"before": "2026-01-01T00:00:00Z"},
    },
}
CLEANED: Final[dict[str, Any]] = {
    "sessions_cleaned": 1,
    "archives_cleaned": 0,
    "bytes_freed": 20_480,
    "session_ids": [SESSION_ID],
    "dry_run": False,
}

EXTENSION: Final[dict[str, Any]] = {
    "name": "memory",
    "config": {"scope": "project"},
    "enabled": True,
}
EXTENSIONS: Final[dict[str, Any]] = {
    "enabled_extensions": [EXTENSION],
    "todo_state": {"content": "- [ ] write the tests"},
    "custom": {"theme": "dark"},
}
EXTENSION_PUTS: Final[dict[str, Any]] = {
    "all": {"summary": "Everything, whole", "value": EXTENSIONS}
}
EXTENSION_PATCHES: Final[dict[str, Any]] = {
    "custom": {"summary": "One custom value", "value": {"custom": {"theme": "light"}}}
}
EXTENSION_STATES: Final[dict[str, Any]] = {
    "on": {"summary": "Enabled", "value": {"config": {"scope": "project"}, "enabled": True}}
}
TODOS: Final[dict[str, Any]] = {
    "list": {"summary": "A list", "value": {"content": "- [ ] write the tests"}}
}

DIAGNOSTICS: Final[dict[str, Any]] = {
    "status": "warn",
    "checks": [
        {"name": "clock", "status": "ok", "seen": "the clock is plausible", "action": ""},
        {
            "name": "disk space",
            "status": "warn",
            "seen": "700 MiB free",
            "action": "free space soon",
        },
    ],
}
