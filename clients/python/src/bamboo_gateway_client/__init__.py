"""The Python client of Bamboo Gateway: durable sessions with AI agents, and streams that resume.

    from bamboo_gateway_client import Gateway

    with Gateway("http://127.0.0.1:8080") as gateway:
        print(gateway.chat("Hello!").text())

`AsyncGateway` is the same with `await`. What is named here is imported when it is used, so that a
program with one of the two does not wait for the other.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bamboo_gateway_client._async.gateway import AsyncGateway
    from bamboo_gateway_client._async.run import AsyncRun
    from bamboo_gateway_client._async.session import AsyncSession
    from bamboo_gateway_client._async.stream import AsyncEventStream
    from bamboo_gateway_client._sync.gateway import Gateway
    from bamboo_gateway_client._sync.run import Run
    from bamboo_gateway_client._sync.session import Session
    from bamboo_gateway_client._sync.stream import EventStream
    from bamboo_gateway_client.conversation import Conversation
    from bamboo_gateway_client.errors import (
        AuthenticationError,
        ConflictError,
        GatewayError,
        GoneError,
        InvalidRequestError,
        NotFoundError,
        PermissionDeniedError,
        ProblemError,
        ProtocolError,
        RateLimitedError,
        RunFailedError,
        UnavailableError,
        UnreachableError,
    )
    from bamboo_gateway_client.events import TERMINAL_TYPES, is_terminal, text_of
    from bamboo_gateway_client.retries import Retries
    from bamboo_gateway_client.streaming import StreamHooks

__all__ = [
    "TERMINAL_TYPES",
    "AsyncEventStream",
    "AsyncGateway",
    "AsyncRun",
    "AsyncSession",
    "AuthenticationError",
    "ConflictError",
    "Conversation",
    "EventStream",
    "Gateway",
    "GatewayError",
    "GoneError",
    "InvalidRequestError",
    "NotFoundError",
    "PermissionDeniedError",
    "ProblemError",
    "ProtocolError",
    "RateLimitedError",
    "Retries",
    "Run",
    "RunFailedError",
    "Session",
    "StreamHooks",
    "UnavailableError",
    "UnreachableError",
    "is_terminal",
    "text_of",
]

_MODULES = {
    "AsyncEventStream": "_async.stream",
    "AsyncGateway": "_async.gateway",
    "AsyncRun": "_async.run",
    "AsyncSession": "_async.session",
    "Conversation": "conversation",
    "EventStream": "_sync.stream",
    "Gateway": "_sync.gateway",
    "Retries": "retries",
    "Run": "_sync.run",
    "Session": "_sync.session",
    "StreamHooks": "streaming",
    "TERMINAL_TYPES": "events",
    "is_terminal": "events",
    "text_of": "events",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_MODULES.get(name, 'errors')}")
    return getattr(module, name)
