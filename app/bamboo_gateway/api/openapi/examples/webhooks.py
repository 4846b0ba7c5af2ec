"""Examples about webhooks."""

from typing import Any, Final

WEBHOOKS: Final[dict[str, Any]] = {
    "ended": {
        "summary": "Tell when an answer is there",
        "value": {"url": "https://example.com/hooks/bamboo", "events": ["run.ended"]},
    },
    "user": {
        "summary": "All that happens in one user's sessions",
        "value": {
            "url": "https://example.com/hooks/bamboo",
            "events": ["run.ended", "input.required", "session.created", "session.deleted"],
            "user_id": "user-123",
        },
    },
}
WEBHOOK: Final[dict[str, Any]] = {
    "id": "wh_01kag8v3c0d6q0w1x2y3z4a5b6",
    "url": "https://example.com/hooks/bamboo",
    "events": ["run.ended"],
    "user_id": None,
    "enabled": True,
    "disabled_reason": None,
    "failing_since": None,
    "secrets": 1,
    "created_at": "2026-11-20T17:25:00.123Z",
    "updated_at": "2026-11-20T17:25:00.123Z",
}
NEW_WEBHOOK: Final[dict[str, Any]] = WEBHOOK | {
    "secret": "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oDazfqkUBYJ1o="
}
PATCHES: Final[dict[str, Any]] = {
    "disable": {"summary": "Disable it for a while", "value": {"enabled": False}},
    "move": {"summary": "Another address", "value": {"url": "https://example.org/hooks"}},
}
ROTATIONS: Final[dict[str, Any]] = {
    "day": {"summary": "The present secret signs for another day", "value": {}},
    "at_once": {"summary": "The secret has leaked", "value": {"overlap_seconds": 0}},
}
ROTATED: Final[dict[str, Any]] = NEW_WEBHOOK | {"secrets": 2}
DELIVERY: Final[dict[str, Any]] = {
    "message_id": "msg_01kag8v3c0d6q0w1x2y3z4a5b6",
    "type": "run.ended",
    "session_id": "s-1",
    "run_id": "run_01kag8v3c0d6q0w1x2y3z4a5b6",
    "attempt": 1,
    "attempted_at": "2026-11-20T17:25:00.623Z",
    "duration_ms": 48,
    "status": 503,
    "error": "status",
    "next_attempt_at": "2026-11-20T17:25:06.102Z",
}
TESTED: Final[dict[str, Any]] = DELIVERY | {
    "type": "webhook.test",
    "session_id": None,
    "run_id": None,
    "status": 204,
    "error": None,
    "next_attempt_at": None,
}
