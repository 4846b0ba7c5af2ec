"""The wire OpenAI."""

from collections.abc import Sequence
from typing import Final

from fastapi import APIRouter
from typing_extensions import override

from bamboo_gateway.api.error_forms import ErrorForm
from bamboo_gateway.wires.base import Wire
from bamboo_gateway.wires.openai import conversation_routes, model_routes, response_routes
from bamboo_gateway.wires.openai.errors import openai_error
from bamboo_gateway.wires.openai.route import PREFIX


class OpenAI(Wire):
    """Responses and Conversations: `/api/v1/openai/v1`."""

    @property
    @override
    def routers(self) -> Sequence[APIRouter]:
        return (response_routes.router, conversation_routes.router, model_routes.router)

    @property
    @override
    def error_form(self) -> tuple[str, ErrorForm]:
        return PREFIX, openai_error


WIRE: Final = OpenAI()
