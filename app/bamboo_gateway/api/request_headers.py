"""Headers that routes declare: `Idempotency-Key` with its body, and `Prefer: wait`."""

import re
from hashlib import sha256
from typing import Annotated, Any, Final, NamedTuple

from fastapi import Depends, Header, Request

from bamboo_gateway.api.bodies import JsonRequest
from bamboo_gateway.api.limits import IDEMPOTENCY_KEY_CHARS_MAX, PREFER_WAIT_SECONDS_MAX
from bamboo_gateway.domain.codec import canonical
from bamboo_gateway.domain.errors import InvalidInput
from bamboo_gateway.sessions.commands import Idempotency

_KEY: Final = re.compile(rf"[!-~]{{1,{IDEMPOTENCY_KEY_CHARS_MAX}}}")
_WAIT: Final = re.compile(r'wait\s*=\s*"?([0-9]{1,9})"?', re.IGNORECASE)


def _key(
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


def sent_json(request: Request) -> Any:
    """Return the parsed body as the client sent it; None when there is none."""
    return request.sent_json if isinstance(request, JsonRequest) else None


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


def _preference(
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
