"""Checks of values that routes read by themselves: ids, cursors, positions and times (R13)."""

import re
from typing import Final, Literal

from bamboo_gateway.domain.clock import parse_ms
from bamboo_gateway.domain.errors import InvalidId, InvalidInput
from bamboo_gateway.domain.ids import (
    check_connection_id,
    check_id,
    check_user_id,
    message_cursor,
)
from bamboo_gateway.domain.positions import After, parse_after

_TIME: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})?"
)


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


def checked_user_id(text: str, loc: tuple[str, ...]) -> str:
    """Return a valid user id.

    Raises:
        InvalidId: It is not valid; `errors` has its place.
    """
    try:
        return check_user_id(text)
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


def _placed(error: InvalidId, loc: tuple[str, ...]) -> InvalidId:
    return InvalidId(error.detail, errors=[{"loc": list(loc), "msg": error.detail}])
