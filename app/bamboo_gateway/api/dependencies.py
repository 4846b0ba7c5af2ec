"""Parameters that routes declare: the caller, the manager, ids and pages.

They and `checks` check every value from outside once (R13). Routes and everything behind them get
values that keep to the contract.
"""

from typing import Annotated, Final, Literal

from fastapi import Depends, Header, Path, Query, Request
from structlog.contextvars import bind_contextvars

from bamboo_gateway.api.caller import CALLER
from bamboo_gateway.api.checks import checked_connection_id, checked_id
from bamboo_gateway.api.limits import CURSOR_CHARS_MAX, PAGE_DEFAULT, PAGE_MAX
from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.sessions.manager import SessionManager, not_recovered

_ID_PATTERN: Final = "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"


def _manager(request: Request) -> SessionManager:
    manager: SessionManager | None = request.app.state.manager
    if manager is None:
        raise not_recovered()
    return manager


def _caller(request: Request) -> Caller:
    caller: Caller = request.scope[CALLER]
    return caller


Manager = Annotated[SessionManager, Depends(_manager)]
Who = Annotated[Caller, Depends(_caller)]

_EXAMPLE_SESSION: Final = {"session": {"value": "s-1"}}
_EXAMPLE_RUN: Final = {"run": {"value": "run_01kag8v3c0d6q0w1x2y3z4a5b6"}}


def _session_id(
    session_id: Annotated[
        str,
        Path(
            description="The session.",
            openapi_examples=_EXAMPLE_SESSION,
            json_schema_extra={"pattern": _ID_PATTERN},
        ),
    ],
) -> str:
    checked_id(session_id, "session id", ("path", "session_id"))
    bind_contextvars(session_id=session_id)
    return session_id


def _run_id(
    run_id: Annotated[
        str,
        Path(
            description="The run.",
            openapi_examples=_EXAMPLE_RUN,
            json_schema_extra={"pattern": _ID_PATTERN},
        ),
    ],
) -> str:
    checked_id(run_id, "run id", ("path", "run_id"))
    bind_contextvars(run_id=run_id)
    return run_id


def _branch_id(
    branch_id: Annotated[
        str,
        Path(
            description="The branch.",
            openapi_examples={"branch": {"value": "branch_01kag8v3c0d6q0w1x2y3z4a5b6"}},
            json_schema_extra={"pattern": _ID_PATTERN},
        ),
    ],
) -> str:
    return checked_id(branch_id, "branch id", ("path", "branch_id"))


def _connection_id(
    connection_id: Annotated[
        str,
        Path(
            description="The connection.",
            openapi_examples={"connection": {"value": "c_01kag8v3c0d6q0w1x2y3z4a5b6"}},
            json_schema_extra={"pattern": "^[A-Za-z0-9._-]{1,128}$"},
        ),
    ],
) -> str:
    return checked_connection_id(connection_id, ("path", "connection_id"))


def _share_id(
    share_id: Annotated[
        str,
        Path(
            description="The share link.",
            openapi_examples={"share": {"value": "share_01kag8v3c0d6q0w1x2y3z4a5b6"}},
            json_schema_extra={"pattern": _ID_PATTERN},
        ),
    ],
) -> str:
    return checked_id(share_id, "share id", ("path", "share_id"))


def _file_id(
    file_id: Annotated[
        str,
        Path(
            description="The file.",
            openapi_examples={"file": {"value": "file_01kag8v3c0d6q0w1x2y3z4a5b6"}},
            json_schema_extra={"pattern": _ID_PATTERN},
        ),
    ],
) -> str:
    return checked_id(file_id, "file id", ("path", "file_id"))


def _own_connection_id(
    connection_id: Annotated[
        str | None, Query(description="The client's own name for this connection.")
    ] = None,
) -> str | None:
    if connection_id is not None:
        checked_connection_id(connection_id, ("query", "connection_id"))
    return connection_id


def _last_seen(
    last_event_id: Annotated[
        str | None,
        Header(description="The last `id` that the client has seen; EventSource sends it."),
    ] = None,
    last_event_id_in_url: Annotated[
        str | None,
        Query(
            alias="lastEventId",
            description="`Last-Event-ID` for clients that send no header of that name, as the npm "
            "package event-source-polyfill. The header counts when both are given.",
        ),
    ] = None,
) -> str | None:
    return last_event_id or last_event_id_in_url or None


SessionId = Annotated[str, Depends(_session_id)]
BranchId = Annotated[str, Depends(_branch_id)]
ShareId = Annotated[str, Depends(_share_id)]
FileId = Annotated[str, Depends(_file_id)]
RunId = Annotated[str, Depends(_run_id)]
ConnectionId = Annotated[str, Depends(_connection_id)]
# Of streams: the name that the client gives its connection, and the last `id` that it has seen.
OwnConnectionId = Annotated[str | None, Depends(_own_connection_id)]
LastSeen = Annotated[str | None, Depends(_last_seen)]
Heartbeat = Annotated[
    Literal["event"] | None,
    Query(description="`event`: heartbeats are events, for clients that cannot see comments."),
]

Limit = Annotated[int, Query(ge=1, le=PAGE_MAX, description="Entries of one page.")]
Order = Annotated[Literal["asc", "desc"], Query(description="`asc`: oldest first.")]
Cursor = Annotated[
    str | None,
    Query(max_length=CURSOR_CHARS_MAX, description="The `next_cursor` of the page before."),
]
PAGE: Final = PAGE_DEFAULT
