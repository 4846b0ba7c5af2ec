"""Which requests are audited, and what is recorded of them: never what was said in a session.

A record is written when the answer is known and before it is sent: what a client has heard of is in
the audit log. Refusals and failures are recorded too, from the moment that the caller is known.
"""

from collections.abc import Iterable
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
    ("POST", "/api/v1/import"): "import",
    ("POST", "/api/v1/cleanup"): "cleanup",
    ("GET", "/api/v1/diagnostics"): "diagnose",
    ("GET", "/api/v1/sessions/{session_id}/diagnostics"): "bug-report",
}
"""Method and route template to the action's name."""

_TARGETS: Final = "bamboo.audit_targets"
MORE_TARGETS: Final = "bamboo.audit_more"
"""Is in the scope while an answer that has begun has something more to record."""
_TARGETS_MAX: Final = 1000
"""Sessions named in one record: as many as a bulk request may name."""


class AuditTrail:
    """Records what `ACTIONS` names."""

    def __init__(self, audit_log: AuditLog, clock: Clock) -> None:
        self._log = audit_log
        self._clock = clock

    async def record(self, scope: Scope, exchange: RequestRecord) -> None:
        """Records a request that is about to be answered, if it is one of those."""
        action = ACTIONS.get((scope["method"], route_of(scope)))
        caller: Caller | None = scope.get(CALLER)
        if action is None or caller is NOBODY:
            return
        client = scope.get("client")
        status = exchange.status or 0
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
                request_id=exchange.request_id,
            )
        )


def name_targets(request: Request, done: Iterable[str], failed: Iterable[str] = ()) -> None:
    """Says which sessions an audited request was about, where its path does not."""
    request.scope[_TARGETS] = (list(done)[:_TARGETS_MAX], list(failed)[:_TARGETS_MAX])


def name_more_targets(request: Request, done: Iterable[str]) -> None:
    """Says what else a request has done whose answer is on its way: a record for each time.

    Call it before that part of the answer is given on.
    """
    name_targets(request, done)
    request.scope[MORE_TARGETS] = True


def name_bulk_targets(request: Request, answer: dict[str, Any], verb: str) -> None:
    """Says which sessions of a bulk request were `verb`, and which failed."""
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
