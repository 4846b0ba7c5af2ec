"""The same conversation, archived, exported, shared, forked, summarized and counted."""

from typing import Any, Final

from bamboo_gateway.api.openapi.examples.conversation import (
    ASSISTANT_MESSAGE,
    POSITION,
    SESSION,
    SESSION_ID,
    USAGE,
    USER_MESSAGE,
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
        "summary": "With everyone who has the link, for a day",
        "value": {"link": True, "expires_in": 86_400},
    },
}
SHARE: Final[dict[str, Any]] = {
    "id": "share_01kag8v3c0d6q0w1x2y3z4a5b6",
    "user_id": "user-456",
    "created_at": "2026-11-20T17:25:00.123Z",
    "expires_at": None,
    "scope": "read",
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
    "append": {"summary": "Append what the fork has more", "value": {"source_id": "s-2"}},
    "interleave": {
        "summary": "Order by time, and add up the usage",
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
    "default": {"summary": "Written by the default agent", "value": {}},
    "named": {"summary": "Written by another agent", "value": {"agent": "cheap"}},
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
    "by_agent": {"default": USAGE},
    "by_model": {"gpt-4o-mini": USAGE},
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
    "by_agent": {"default": USAGE},
    "by_model": {"gpt-4o-mini": USAGE},
    "oldest": _BRIEF,
    "newest": _BRIEF,
    "most_active": [_BRIEF],
}

CLEANUPS: Final[dict[str, Any]] = {
    "look": {"summary": "Only list what would be deleted", "value": {"dry_run": True}},
    "before": {
        "summary": "Delete all sessions without activity since then",
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

ERASED: Final[dict[str, Any]] = {
    "user_id": "user-123",
    "dry_run": False,
    "complete": True,
    "sessions": 12,
    "archives": 3,
    "bytes_freed": 184_320,
    "shares": 1,
    "keys": 2,
    "webhooks": 1,
    "files": 3,
    "exports": 4,
    "sessions_left": 0,
    "failed": [],
    "stores": [
        {"store": "keys", "what": "the user's keys", "gone": "now"},
        {
            "store": "jsonl",
            "what": "logs, archives, snapshots and what was in quarantine",
            "gone": "now",
        },
        {"store": "jsonl", "what": "the journal and the index", "gone": "now"},
    ],
    "remains": [
        {
            "where": "backups",
            "what": "everything of the user that was there when they were made",
            "until": "you delete the backups made before; erase the user again after a restore",
        }
    ],
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
    "all": {"summary": "Replace everything", "value": EXTENSIONS}
}
EXTENSION_PATCHES: Final[dict[str, Any]] = {
    "custom": {"summary": "Set one custom value", "value": {"custom": {"theme": "light"}}}
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
