"""Who is asking: the credential of a request, and the caller that comes with it."""

from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.problems import EdgeError, problem_response
from app.credentials.gate import Gate
from app.domain.callers import LOCAL_CALLER, Caller
from app.domain.errors import BambooError, InvalidId

CALLER: Final = "bamboo.caller"
"""Where the scope keeps the caller."""

OPEN_PATHS: Final = frozenset(
    {"/health/live", "/health/ready", "/api/v1/health/live", "/api/v1/health/ready"}
)
"""What whoever starts and watches the gateway must see without a credential."""

_NOBODY: Final = Caller("nobody", "", frozenset())


class Authentication:
    """Puts the caller into the scope, or answers 401; 403 when it may not be who it says."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] == "http":
            try:
                scope[CALLER] = self._caller(scope)
            except BambooError as error:
                await problem_response(error, scope)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _caller(self, scope: Scope) -> Caller:
        if scope["path"] in OPEN_PATHS:
            return _NOBODY
        if self._gate.is_open:
            return LOCAL_CALLER
        sent = _values(scope, b"authorization")
        if not sent:
            raise unauthorized()
        scheme, _, credential = sent[0].partition(b" ")
        if len(sent) > 1 or scheme.lower() != b"bearer":
            raise unauthorized(wrong=True)
        caller = self._gate.bearer(credential.strip(), _acting_for(scope))
        if caller is None:
            raise unauthorized(wrong=True)
        return caller


def unauthorized(*, wrong: bool = False) -> EdgeError:
    """Makes the refusal; what was wrong with a credential is not said (RFC 6750, 3)."""
    error = ', error="invalid_token"' if wrong else ""
    return EdgeError("unauthorized", headers={"WWW-Authenticate": f'Bearer realm="bamboo"{error}'})


def _acting_for(scope: Scope) -> str | None:
    """Gives the user that the caller says to act for, unchecked."""
    named = _values(scope, b"x-user-id")
    if len(named) > 1:
        raise InvalidId("The request has more than one X-User-Id header.")
    return named[0].decode("latin-1") if named else None


def _values(scope: Scope, header: bytes) -> list[bytes]:
    return [value for name, value in scope["headers"] if name == header]
