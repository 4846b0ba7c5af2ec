"""A real HTTP/1.1 server on 127.0.0.1 that plays byte scripts and records what it was asked.

A script is a list of steps, one script for each request in turn: bytes are written as they are, an
event is waited for, and `CUT` resets the connection. The moments that tests wait for are events, so
no test sleeps: `requested`, and `left`, when a client closes in mid-answer.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

import anyio
import orjson


class Cut:
    """Resets the connection, so that the client sees it broken."""


CUT: Final = Cut()
Step = bytes | anyio.Event | Cut
Script = Sequence[Step]


@dataclass(frozen=True)
class Request:
    """What the server was asked."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


@dataclass
class ScriptedServer:
    """The server: its scripts, and what it has recorded of requests and clients."""

    scripts: list[Script]
    port: int = 0
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    requested: anyio.Event = field(default_factory=anyio.Event)
    left: anyio.Event = field(default_factory=anyio.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await self._answer(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            self.left.set()
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except asyncio.IncompleteReadError:
            return False
        first, *lines = head.strip().split("\r\n")
        method, path, _ = first.split(" ")
        headers = {
            name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)
        }
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self.requests.append(Request(method, path, headers, body))
        script = self.scripts.pop(0)
        self.requested.set()
        for step in script:
            match step:
                case bytes():
                    writer.write(step)
                    await writer.drain()
                case Cut():
                    writer.transport.abort()
                    return False
                case anyio.Event():
                    if not await self._wait(step, reader):
                        return False
        return b"connection: close" not in b"".join(s for s in script if isinstance(s, bytes))

    async def _wait(self, event: anyio.Event, reader: asyncio.StreamReader) -> bool:
        """Wait for the event, or for the client to leave."""

        async def watch() -> None:
            if await reader.read(1) == b"":
                self.left.set()
                scope.cancel()

        async with anyio.create_task_group() as tasks:
            scope = tasks.cancel_scope
            tasks.start_soon(watch)
            await event.wait()
            scope.cancel()
        return not self.left.is_set()


@asynccontextmanager
async def scripted(*scripts: Script, port: int = 0) -> AsyncIterator[ScriptedServer]:
    """Serve the scripts, one for each request; on a free port unless one is given."""
    server = ScriptedServer(list(scripts))
    listener = await asyncio.start_server(server.serve, "127.0.0.1", port)
    async with listener:
        server.port = listener.sockets[0].getsockname()[1]
        yield server


def head(status: int = 200, media_type: str = "text/event-stream", **headers: str) -> bytes:
    """A response head whose body is chunked."""
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", f"Content-Type: {media_type}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "Transfer-Encoding: chunked", "", ""]).encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


END: Final = b"0\r\n\r\n"


def bytewise(data: bytes) -> list[bytes]:
    """Every byte in an HTTP chunk of its own, so that the client surely reads them one by one."""
    return [chunk(data[at : at + 1]) for at in range(len(data))]


def whole(status: int, value: object, **headers: str) -> list[bytes]:
    """A JSON answer with its length."""
    body = orjson.dumps(value)
    return [
        head(status, "application/json", **headers).replace(
            b"Transfer-Encoding: chunked", b"Content-Length: %d" % len(body)
        ),
        body,
    ]


def sse(values: Iterable[object], *, done: bool = True) -> bytes:
    """Return values as the data of server-sent events."""
    frames = [b"data: %b\n\n" % orjson.dumps(value) for value in values]
    return b"".join([*frames, b"data: [DONE]\n\n"] if done else frames)


def stream(values: Iterable[object], *, done: bool = True) -> list[bytes]:
    """A whole streamed answer."""
    return [head(), chunk(sse(values, done=done)), END]
