"""The wire AG-UI."""

from collections.abc import Sequence
from typing import Final

from fastapi import APIRouter
from typing_extensions import override

from bamboo_gateway.api.error_forms import ErrorForm
from bamboo_gateway.wires.ag_ui.errors import refusal
from bamboo_gateway.wires.ag_ui.routes import PREFIX, reading, router
from bamboo_gateway.wires.base import Wire


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
