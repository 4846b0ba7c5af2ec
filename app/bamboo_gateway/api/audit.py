"""Which requests the audit log records, and with which fields; never the content of a session.

The record is written after the response is known and before it is sent: everything a client has
seen is in the audit log. Refusals and failures are recorded too, once the caller is known.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

from starlette.requests import Request
from starlette.types import Scope

from bamboo_gateway.api.access_log import RequestRecord, route_of
from bamboo_gateway.api.caller import CALLER, NOBODY
from bamboo_gateway.api.problems import PROBLEM
from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.domain.ids import is_id
from bamboo_gateway.observability.audit import AuditLog, AuditRecord

ACTIONS: Final = {
    ("DELETE", "/api/v1/sessions/{session_id}"): "delete",
    ("DELETE", "/api/v1/openai/v1/conversations/{conversation_id}"): "delete",
    ("POST", "/api/v1/sessions/{session_id}/archive"): "archive",
    ("POST", "/api/v1/sessions/{session_id}/restore"): "restore",
    ("POST", "/api/v1/archive"): "archive",
    ("POST", "/api/v1/archive/restore"): "restore",
    ("DELETE", "/api/v1/archive/{session_id}"): "delete",
    ("POST", "/api/v1/login"): "login",
    ("POST", "/api/v1/logout"): "logout",
    ("POST", "/api/v1/sessions/{session_id}/ticket"): "ticket",
    ("POST", "/api/v1/sessions/{session_id}/shares"): "share",
    ("DELETE", "/api/v1/sessions/{session_id}/shares/{share_id}"): "revoke-share",
    ("DELETE", "/api/v1/files/{file_id}"): "delete-file",
    ("POST", "/api/v1/import"): "import",
    ("POST", "/api/v1/cleanup"): "cleanup",
    ("DELETE", "/api/v1/users/{user_id}"): "erase-user",
    ("POST", "/api/v1/webhooks"): "create-webhook",
    ("PATCH", "/api/v1/webhooks/{webhook_id}"): "change-webhook",
    ("DELETE", "/api/v1/webhooks/{webhook_id}"): "delete-webhook",
    ("POST", "/api/v1/webhooks/{webhook_id}/rotate"): "rotate-webhook",
    ("GET", "/api/v1/diagnostics"): "diagnose",
    ("GET", "/api/v1/sessions/{session_id}/diagnostics"): "bug-report",
}
"""Map a method and route template to the action's name."""

_TARGETS: Final = "bamboo.audit_targets"
MORE_TARGETS: Final = "bamboo.audit_more"
"""In the scope while a response that has begun has something more to record."""
_TARGETS_MAX: Final = 1000
"""Sessions in one record: as many as a bulk request may name."""


class AuditTrail:
    """Record the requests that `ACTIONS` names."""

    def __init__(self, audit_log: AuditLog, clock: Clock) -> None:
        self._log = audit_log
        self._clock = clock

    async def record(self, scope: Scope, record: RequestRecord) -> None:
        """Record a request whose response is about to be sent, if `ACTIONS` names it."""
        action = ACTIONS.get((scope["method"], route_of(scope)))
        caller: Caller | None = scope.get(CALLER)
        if action is None or caller is NOBODY:
            return
        client = scope.get("client")
        status = record.status or 0
        done, failed = scope.get(_TARGETS) or _targets_of(scope)
        await self._log.append(
            AuditRecord(
                at_ms=self._clock.now_ms(),
                action=action,
                outcome=_outcome(status),
                status=status,
                code=scope.get(PROBLEM),
                caller=caller.id if caller else None,
                user_id=caller.user_id if caller else None,
                credential=caller.credential if caller else None,
                remote_address=client[0] if client else None,
                targets=done,
                failed_targets=failed,
                request_id=record.request_id,
            )
        )


def name_targets(request: Request, done: Iterable[str], failed: Iterable[str] = ()) -> None:
    """Set the sessions of an audited request whose path does not name them."""
    request.scope[_TARGETS] = (list(done)[:_TARGETS_MAX], list(failed)[:_TARGETS_MAX])


def name_more_targets(request: Request, done: Iterable[str]) -> None:
    """Set further sessions of a request whose response has begun; each call makes a record.

    Call this before you send the part of the response that is about them.
    """
    name_targets(request, done)
    request.scope[MORE_TARGETS] = True


def name_bulk_targets(request: Request, answer: Mapping[str, Any], verb: str) -> None:
    """Set the sessions of a bulk request from its answer.

    Args:
        request: The request.
        answer: The answer, with the lists `verb` and `failed`.
        verb: The answer's list of sessions for which the request succeeded.
    """
    done = (entry["session_id"] for entry in answer[verb])
    failed = (entry["session_id"] for entry in answer["failed"])
    name_targets(request, done, filter(is_id, failed))


def _targets_of(scope: Scope) -> tuple[list[str], list[str]]:
    session_id = (scope.get("path_params") or {}).get("session_id")
    return ([session_id] if session_id is not None and is_id(session_id) else []), []


def _outcome(status: int) -> Literal["done", "refused", "failed"]:
    if status < 400:
        return "done"
    return "refused" if status < 500 else "failed"
