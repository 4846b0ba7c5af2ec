"""The wire AG-UI."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastapi import APIRouter
from starlette.responses import Response
from typing_extensions import override

from bamboo_gateway.api.error_forms import ErrorForm
from bamboo_gateway.domain.codec import encode
from bamboo_gateway.wires.ag_ui.routes import PREFIX, reading, router
from bamboo_gateway.wires.base import Wire


def refusal(problem: Mapping[str, Any], headers: Mapping[str, str]) -> Response:
    """Return a refused request as a RUN_ERROR with the members of the problem.

    The official client shows the body of any answer that is no 2xx, as JSON only when its type
    says so.
    """
    members = {name: value for name, value in problem.items() if name not in ("type", "instance")}
    message = problem.get("detail") or problem.get("title") or "The request was refused."
    body = {"type": "RUN_ERROR", "message": message, **members}
    return Response(encode(body), problem["status"], dict(headers), media_type="application/json")


class AgUi(Wire):
    """Sessions as AG-UI threads: `/api/v1/ag-ui/{agent}`."""

    @property
    @override
    def routers(self) -> Sequence[APIRouter]:
        return (router, reading)

    @property
    @override
    def error_form(self) -> tuple[str, ErrorForm] | None:
        return PREFIX, refusal


WIRE: Final = AgUi()
