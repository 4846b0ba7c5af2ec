"""The wire AI SDK."""

from collections.abc import Sequence
from typing import Final

from fastapi import APIRouter
from typing_extensions import override

from bamboo_gateway.wires.ai_sdk.routes import router_of
from bamboo_gateway.wires.ai_sdk.versions import VERSIONS
from bamboo_gateway.wires.base import Wire


class AiSdk(Wire):
    """Sessions for `useChat`: `/api/v1/ai-sdk/chat`, and `v6` and `v7` before `chat`."""

    @property
    @override
    def routers(self) -> Sequence[APIRouter]:
        return _ROUTERS


_ROUTERS: Final = tuple(map(router_of, VERSIONS))

WIRE: Final = AiSdk()
