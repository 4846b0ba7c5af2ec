"""Answers: JSON bytes. What is stored as JSON is joined, never parsed and encoded again."""

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import Response

from app.domain.codec import encode
from app.sessions.commands import Outcome

JSON = "application/json"
_HEADERS = {
    # Browsers keep what has an ETag and show it again: a session's state would be an old one.
    "Cache-Control": "no-store"
}


def json_response(
    value: object, status_code: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Answers with a value."""
    return bytes_response(encode(value), status_code, headers)


def bytes_response(
    body: bytes, status_code: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Answers with encoded JSON."""
    return Response(body, status_code, {**_HEADERS, **(headers or {})}, media_type=JSON)


def outcome_headers(outcome: Outcome) -> dict[str, str]:
    """Gives the headers that tell a repeat from a first answer."""
    return {"Idempotency-Replayed": "true"} if outcome.replayed else {}


def joined(name: str, items: Sequence[bytes], rest: Mapping[str, Any]) -> bytes:
    """Builds `{"<name>": [items…], …rest}` around encoded items. `rest` is not empty."""
    return b'{"%b":[%b],%b' % (name.encode(), b",".join(items), encode(rest)[1:])


def with_list(value: Mapping[str, Any], name: str, items: Sequence[bytes]) -> bytes:
    """Builds `{…value, "<name>": [items…]}` around encoded items. `value` is not empty."""
    return b'%b,"%b":[%b]}' % (encode(value)[:-1], name.encode(), b",".join(items))


def etag_matches(header: str, etag: str) -> bool:
    """Tells whether an `If-None-Match` names this version (weak comparison, RFC 9110, 13.1.2)."""
    wanted = {part.strip().removeprefix("W/") for part in header.split(",")}
    return "*" in wanted or etag in wanted
