"""The parameters that routes declare: the caller, the manager, ids, pages, keys, preferences.

This module checks every value from outside once (R13). Routes and everything behind them get
values that keep to the contract.
"""

import re
from collections.abc import Awaitable
from contextlib import suppress
from functools import partial
from hashlib import sha256
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeVar

from fastapi import Depends, Header, Path, Query, Request
from starlette.requests import ClientDisconnect
from structlog.contextvars import bind_contextvars

from bamboo_gateway.api.access_log import MAY_WAIT
from bamboo_gateway.api.bodies import JsonRequest
from bamboo_gateway.api.caller import CALLER, check_still_allowed, receive_while_allowed
from bamboo_gateway.api.disconnect import run_until_disconnect, wait_for_disconnect
from bamboo_gateway.api.limits import (
    CURSOR_CHARS_MAX,
    IDEMPOTENCY_KEY_CHARS_MAX,
    PAGE_DEFAULT,
    PAGE_MAX,
    PREFER_WAIT_SECONDS_MAX,
)
from bamboo_gateway.api.problems import EdgeError
from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.clock import parse_ms
from bamboo_gateway.domain.codec import canonical
from bamboo_gateway.domain.errors import InvalidId, InvalidInput
from bamboo_gateway.domain.ids import check_connection_id, check_id, message_cursor
from bamboo_gateway.domain.positions import After, parse_after
from bamboo_gateway.sessions.commands import Idempotency
from bamboo_gateway.sessions.manager import SessionManager, not_recovered

T = TypeVar("T")

_ID_PATTERN: Final = "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
_KEY: Final = re.compile(rf"[!-~]{{1,{IDEMPOTENCY_KEY_CHARS_MAX}}}")
_WAIT: Final = re.compile(r'wait\s*=\s*"?([0-9]{1,9})"?', re.IGNORECASE)
_TIME: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})?"
)


async def _manager(request: Request) -> SessionManager:
    manager: SessionManager | None = request.app.state.manager
    if manager is None:
        raise not_recovered()
    return manager


async def _caller(request: Request) -> Caller:
    caller: Caller = request.scope[CALLER]
    return caller


Manager = Annotated[SessionManager, Depends(_manager)]
Who = Annotated[Caller, Depends(_caller)]

_EXAMPLE_SESSION: Final = {"session": {"value": "s-1"}}
_EXAMPLE_RUN: Final = {"run": {"value": "run_01kag8v3c0d6q0w1x2y3z4a5b6"}}


async def _session_id(
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


async def _run_id(
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


async def _connection_id(
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


async def _share_id(
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


SessionId = Annotated[str, Depends(_session_id)]
ShareId = Annotated[str, Depends(_share_id)]
RunId = Annotated[str, Depends(_run_id)]
ConnectionId = Annotated[str, Depends(_connection_id)]

Limit = Annotated[int, Query(ge=1, le=PAGE_MAX, description="Entries of one page.")]
Order = Annotated[Literal["asc", "desc"], Query(description="`asc`: oldest first.")]
Cursor = Annotated[
    str | None,
    Query(max_length=CURSOR_CHARS_MAX, description="The `next_cursor` of the page before."),
]
PAGE: Final = PAGE_DEFAULT


def checked_id(text: str, what: str, loc: tuple[str, ...]) -> str:
    """Return a valid id.

    Raises:
        InvalidId: It is not valid; `errors` has its place.
    """
    try:
        return check_id(text, what)
    except InvalidId as error:
        raise _placed(error, loc) from error


def checked_connection_id(text: str, loc: tuple[str, ...]) -> str:
    """Return a valid connection id.

    Raises:
        InvalidId: It is not valid; `errors` has its place.
    """
    try:
        return check_connection_id(text)
    except InvalidId as error:
        raise _placed(error, loc) from error


def checked_message_cursor(text: str | None, name: str) -> None:
    """Check a cursor of the message history.

    Raises:
        InvalidId: It is not valid; `errors` has its query parameter.
    """
    if text is None:
        return
    try:
        message_cursor(text)
    except InvalidId as error:
        raise _placed(error, ("query", name)) from error


def read_after(text: str | None) -> After | None:
    """Read the query's `after`: a position, or a bare seq.

    Raises:
        InvalidInput: It is neither.
    """
    return parse_after(text) if text is not None else None


def checked_time(
    text: str | None, name: str, place: Literal["query", "body"] = "query"
) -> int | None:
    """Return the RFC 3339 time of parameter `name` in ms since 1970; without an offset it is UTC.

    Raises:
        InvalidInput: It is not an RFC 3339 time.
    """
    if text is None:
        return None
    try:
        if _TIME.fullmatch(text):
            return parse_ms(text.upper())
    except (ValueError, OverflowError):
        pass
    hint = "not an RFC 3339 time, like 2026-11-20T17:25:00Z"
    if place == "query":
        hint += " (a `+` is `%2B` in a URL)"
    raise InvalidInput(f"`{name}` is {hint}.", errors=[{"loc": [place, name], "msg": hint}])


async def _key(
    request: Request,
    idempotency_key: Annotated[
        str | None,
        Header(
            description="1 to 255 visible ASCII characters. A repeat with the same key and body "
            "gets the first answer and does nothing; kept for 24 hours.",
            openapi_examples={"key": {"value": "6f1c2a9e-order-66"}},
        ),
    ] = None,
) -> str | None:
    keys = request.headers.getlist("idempotency-key")
    if idempotency_key is None:
        return None
    if len(keys) > 1 or _KEY.fullmatch(keys[0]) is None:
        what = "one value of 1 to 255 visible ASCII characters"
        raise InvalidInput(
            f"Idempotency-Key must be {what}.",
            errors=[{"loc": ["header", "Idempotency-Key"], "msg": f"not {what}"}],
        )
    return keys[0]


Key = Annotated[str | None, Depends(_key)]


def idempotency(key: str | None, route: str, body: object) -> Idempotency | None:
    """Return the idempotency of a request with a parsed body; None without a key."""
    if key is None:
        return None
    return Idempotency(key, route, sha256(canonical(body)).hexdigest())


def idempotency_of_bytes(key: str | None, route: str, body: bytes) -> Idempotency | None:
    """Return the idempotency of a request with a body of any media type; None without a key."""
    if key is None:
        return None
    return Idempotency(key, route, sha256(body).hexdigest())


async def sent_json(request: Request) -> Any:
    """Return the parsed body as the client sent it; None when there is none."""
    if isinstance(request, JsonRequest) and await request.body():
        return await request.json()
    return None


SentJson = Annotated[Any, Depends(sent_json)]


class Preference(NamedTuple):
    """The seconds of `Prefer: wait`, or None."""

    wait_seconds: int | None

    @property
    def headers(self) -> dict[str, str]:
        """The headers of an answer that applied the preference."""
        if self.wait_seconds is None:
            return {}
        return {"Preference-Applied": f"wait={self.wait_seconds}"}


async def _preference(
    request: Request,
    prefer: Annotated[
        str | None,
        Header(
            description="`wait=N`: the answer waits up to N (0 to 300) seconds for the run's end.",
            openapi_examples={"wait": {"value": "wait=60"}},
        ),
    ] = None,
) -> Preference:
    if prefer is None:
        return Preference(None)
    for part in ",".join(request.headers.getlist("prefer")).split(","):
        # Unknown preferences are ignored (RFC 7240); the known one must be valid.
        preference = part.partition(";")[0].strip()
        if not re.match(r"wait\b", preference, re.IGNORECASE):
            continue
        match = _WAIT.fullmatch(preference)
        if match is None or int(match[1]) > PREFER_WAIT_SECONDS_MAX:
            hint = f"`wait` must be a whole number of seconds from 0 to {PREFER_WAIT_SECONDS_MAX}"
            raise InvalidInput(
                f"Prefer: {hint}.", errors=[{"loc": ["header", "Prefer"], "msg": hint}]
            )
        return Preference(int(match[1]))
    return Preference(None)


Prefer = Annotated[Preference, Depends(_preference)]


async def unless_disconnected(request: Request, answer: Awaitable[T]) -> T:
    """Await a long answer, until the client disconnects or its credential becomes invalid.

    Call this only after the body has been read.

    Raises:
        ClientDisconnect: The client disconnected.
        EdgeError: The credential became invalid; the caller does not get the answer.
    """
    request.scope[MAY_WAIT] = True

    async def disconnected() -> None:
        with suppress(EdgeError):  # `check_still_allowed` raises it again below
            await wait_for_disconnect(partial(receive_while_allowed, request))

    try:
        result = await run_until_disconnect(answer, disconnected)
    except ClientDisconnect:
        check_still_allowed(request)
        raise
    check_still_allowed(request)
    return result


def _placed(error: InvalidId, loc: tuple[str, ...]) -> InvalidId:
    return InvalidId(error.detail, errors=[{"loc": list(loc), "msg": error.detail}])
