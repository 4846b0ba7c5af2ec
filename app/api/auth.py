"""Who is asking: API keys as bearer tokens, and the caller they stand for."""

from hashlib import sha256
from hmac import compare_digest
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.problems import EdgeError, problem_response
from app.domain.callers import LOCAL_CALLER, Caller
from app.settings import Settings

CALLER: Final = "bamboo.caller"
"""Where the scope keeps the caller."""

OPEN_PATHS: Final = frozenset(
    {"/health/live", "/health/ready", "/api/v1/health/live", "/api/v1/health/ready"}
)
"""What whoever starts and watches the gateway must see without a key."""


class KeyAuth:
    """Puts the caller into the scope, or answers 401.

    Keys are compared as digests, each with all others' time: neither length nor place leaks.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._callers = [(_digest(key), _caller_of(key)) for key in settings.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] == "http":
            caller = self._caller(scope)
            if isinstance(caller, EdgeError):
                await problem_response(caller, scope)(scope, receive, send)
                return
            scope[CALLER] = caller
        await self._app(scope, receive, send)

    def _caller(self, scope: Scope) -> Caller | EdgeError:
        if not self._callers or scope["path"] in OPEN_PATHS:
            return LOCAL_CALLER
        sent = [value for name, value in scope["headers"] if name == b"authorization"]
        if not sent:
            return _refusal('Bearer realm="bamboo"')
        scheme, _, key = sent[0].partition(b" ")
        found: Caller | None = None
        digest = _digest(key.strip())
        for known, caller in self._callers:
            if compare_digest(known, digest):
                found = caller
        if found is None or scheme.lower() != b"bearer" or len(sent) > 1:
            return _refusal('Bearer realm="bamboo", error="invalid_token"')
        return found


def _refusal(challenge: str) -> EdgeError:
    return EdgeError("unauthorized", headers={"WWW-Authenticate": challenge})


def _digest(key: str | bytes) -> bytes:
    return sha256(key if isinstance(key, bytes) else key.encode()).digest()


def _caller_of(key: str) -> Caller:
    # Idempotency keys are kept under it, so it is the same after a restart; a second digest, for
    # what is stored must not help to guess the first.
    return Caller("key-" + sha256(b"bamboo caller\0" + _digest(key)).hexdigest()[:16])
