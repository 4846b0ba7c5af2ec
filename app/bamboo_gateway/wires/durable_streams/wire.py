"""The wire Durable Streams."""

from collections.abc import Sequence
from typing import Final

from fastapi import APIRouter
from typing_extensions import override

from bamboo_gateway.wires.base import Wire
from bamboo_gateway.wires.durable_streams.routes import router


class DurableStreams(Wire):
    """Sessions as read-only Durable Streams: `/api/v1/ds/{session_id}`."""

    @property
    @override
    def routers(self) -> Sequence[APIRouter]:
        return (router,)


WIRE: Final = DurableStreams()
