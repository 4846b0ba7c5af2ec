"""What a wire is: its routes, the right that each needs, and the form of its errors.

Authentication, rate limits, owners, quotas and the path prefix are the gateway's own, and are the
same for every wire: a wire reaches sessions only through `SessionManager`, with the request's
caller. A protocol's stream is a `Renderer` (`sessions.streaming.rendering`), which the wire passes
to `SessionManager.connect`: so all wires share the subscriptions, the event queue and their clock.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response
from typing_extensions import override

from bamboo_gateway.api.error_forms import ErrorForm
from bamboo_gateway.api.problem_responses import error_response
from bamboo_gateway.api.security.rights import GuardedRoute


class Wire(ABC):
    """One protocol."""

    @property
    @abstractmethod
    def routers(self) -> Sequence[APIRouter]:
        """The routes, below `/api/v1`. Their `route_class` is a `WireRoute` with a right."""

    @property
    def error_form(self) -> tuple[str, ErrorForm] | None:
        """The path that all routes of the wire are below, and the form of errors there.

        What is refused before a route is found (credentials, rates, foreign pages, unknown paths)
        has this form too. None: errors are the gateway's problems.
        """
        return None


class WireRoute(GuardedRoute):
    """A route of a wire; the class of each wire also says which right its routes need."""

    @override
    async def respond(self, request: Request) -> Response:
        try:
            return self.completed(await super().respond(request))
        except Exception as error:
            response = self.refusal(error, request)
            if response is None:
                raise
            return self.completed(response)

    def refusal(self, error: Exception, request: Request) -> Response | None:
        """Return the response to an error; None for one that nobody raised on purpose.

        It has the form of `Wire.error_form`. A route may turn one error into another here.
        """
        return error_response(error, request)

    def completed(self, response: Response) -> Response:
        """Return an answer with what the protocol asks for on all of them."""
        return response
