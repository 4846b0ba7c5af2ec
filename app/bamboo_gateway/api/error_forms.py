"""The forms of errors of other protocols: which one a path has.

Credentials, rates and unknown routes are refused before a route is found, and clients of another
protocol read only its own errors. So the form belongs to the path, and everything that refuses a
request below it takes this form. A request that is not refused never asks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from starlette.responses import Response
from starlette.types import Scope


class ErrorForm(Protocol):
    """Makes a protocol's response of the gateway's problem."""

    def __call__(self, problem: Mapping[str, Any], headers: Mapping[str, str], /) -> Response:
        """Return the response.

        Args:
            problem: The members of the problem document; `status` is the response's.
            headers: Headers that the response has in any form, as `Retry-After`.
        """


@dataclass(frozen=True, slots=True)
class ErrorForms:
    """The forms of all wires, each with the path that its routes are below."""

    by_prefix: Sequence[tuple[str, ErrorForm]] = ()

    def of(self, scope: Scope) -> ErrorForm | None:
        """Return the form of a request's path; None: a problem document."""
        path: str = scope["path"]
        for prefix, form in self.by_prefix:
            if path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in {"", "/"}:
                return form
        return None


NO_FORMS: Final = ErrorForms()
