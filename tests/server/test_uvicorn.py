"""uvicorn documents little of what `bamboo_gateway.server` overrides: all of it has to exist."""

import ast
import asyncio
import inspect
import tomllib
from importlib.metadata import version
from typing import Any

import pytest
import uvicorn
from packaging.requirements import Requirement
from starlette.types import Receive, Scope, Send
from typing_extensions import override
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from bamboo_gateway.server import compact, final_response, http1, server
from tests.processes import REPOSITORY

OVERRIDDEN = {
    uvicorn.Server: {"handle_exit", "main_loop", "serve", "startup"},
    HttpToolsProtocol: {
        "connection_lost",
        "connection_made",
        "data_received",
        "on_body",
        "on_header",
        "on_headers_complete",
        "on_message_begin",
        "on_message_complete",
        "on_response_complete",
        "pause_writing",
        "resume_writing",
        "send_400_response",
        "timeout_keep_alive_handler",
    },
    FlowControl: set[str](),
}
"""The methods that the server's classes override, by uvicorn's class."""

SERVER = {"_serve", "capture_signals", "force_exit", "server_state", "servers", "should_exit"}
STATE = {"connections", "default_headers", "total_requests"}
PROTOCOL = {
    "_unset_keepalive_if_required",
    "client",
    "config",
    "cycle",
    "expect_100_continue",
    "flow",
    "headers",
    "loop",
    "parser",
    "pipeline",
    "scope",
    "server_state",
    "timeout_keep_alive_task",
    "transport",
    "url",
}
CYCLE = {
    "body",
    "chunked_encoding",
    "disconnected",
    "expected_content_length",
    "flow",
    "keep_alive",
    "message_event",
    "more_body",
    "response_complete",
    "response_started",
    "scope",
    "send",
    "transport",
    "waiting_for_100_continue",
}
FLOW = {"_is_writable_event", "read_paused", "resume_reading", "write_paused"}


class Transport(asyncio.Transport):
    """A transport that goes nowhere."""

    @override
    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    @override
    def write(self, data: bytes | bytearray | memoryview) -> None:
        return

    @override
    def is_closing(self) -> bool:
        return False

    @override
    def close(self) -> None:
        return


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def test_every_attribute_that_is_used_is_there_when_it_is_used() -> None:
    config = uvicorn.Config(app, http=HttpToolsProtocol, ws="none", lifespan="off")
    made = uvicorn.Server(config)
    made.servers = []  # `startup` sets it
    protocol = HttpToolsProtocol(config, made.server_state, {}, asyncio.get_running_loop())
    protocol.connection_made(Transport())
    protocol.parser.feed_data(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    await asyncio.wait(made.server_state.tasks)
    used: dict[object, set[str]] = {
        made: SERVER,
        made.server_state: STATE,
        protocol: PROTOCOL,
        protocol.cycle: CYCLE,
        protocol.flow: FLOW,
    }
    for owner, names in used.items():
        assert names <= set(dir(owner)), f"{owner} lacks {names - set(dir(owner))}"
    assert "servers" in inspect.getsource(uvicorn.Server.startup)
    protocol.connection_lost(None)


@pytest.mark.parametrize(
    ("mine", "base"),
    [
        (server.GatewayServer, uvicorn.Server),
        (http1.GatewayProtocol, HttpToolsProtocol),
        (compact.CompactFlowControl, FlowControl),
    ],
)
def test_every_method_that_is_overridden_exists_and_is_listed_here(mine: type, base: type) -> None:
    mine_too = {name for name in vars(mine) if hasattr(base, name) and not name.startswith("__")}
    assert mine_too == OVERRIDDEN[base]
    marked = {
        node.name
        for node in ast.walk(ast.parse(inspect.getsource(mine)))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and any(ast.unparse(mark) == "override" for mark in node.decorator_list)
    }
    assert marked - {"__init__"} == OVERRIDDEN[base]


@pytest.mark.parametrize(
    ("source", "owner", "own", "listed"),
    [
        (http1, "self", http1.GatewayProtocol, PROTOCOL | OVERRIDDEN[HttpToolsProtocol]),
        (http1, "cycle", object, CYCLE),
        (final_response, "cycle", object, CYCLE),
    ],
)
def test_every_name_of_uvicorn_that_the_source_uses_is_listed_here(
    source: Any, owner: str, own: type, listed: set[str]
) -> None:
    used = {
        node.attr
        for node in ast.walk(ast.parse(inspect.getsource(source)))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in {owner, f"self.{owner}"}
    }
    assert len(used) > 5
    assert used - set(vars(own)) <= listed


def test_the_installed_version_is_within_the_bounds_of_the_package() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    required = map(Requirement, project["project"]["dependencies"])
    (bounds,) = [found.specifier for found in required if found.name == "uvicorn"]
    assert version("uvicorn") in bounds
    assert any(bound.operator == "<" for bound in bounds)


def test_the_cycle_takes_messages_without_its_task() -> None:
    """`final_response` calls `send` of the class with the cycle, past what shadows it."""
    assert list(inspect.signature(RequestResponseCycle.send).parameters) == ["self", "message"]
