"""The bare limit of delivery: a protocol on uvloop's transports, with no framework and no queue.

Each event is framed once and written to every reader's transport as it comes. No parsing beyond the
request line, no back pressure, nothing durable: what Python and one core can give at most.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import orjson
import uvloop
from typing_extensions import override

from benchmarks import producer

_readers: dict[str, set[asyncio.WriteTransport]] = defaultdict(set)
_tasks: set[asyncio.Task[None]] = set()
_STREAM = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)


class _Protocol(asyncio.Protocol):
    """Knows `GET …/stream/ID` and `POST …/chat`, and says yes to everything else."""

    def __init__(self) -> None:
        self._data = b""
        self._session: str | None = None
        self._transport: Any = None

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    @override
    def data_received(self, data: bytes) -> None:
        self._data += data
        head, found, body = self._data.partition(b"\r\n\r\n")
        if not found:
            return
        at = head.lower().find(b"content-length:")
        if at >= 0 and len(body) < int(head[at + 15 :].split(b"\r\n", 1)[0]):
            return
        self._data = b""
        method, path = head.split(b" ", 2)[:2]
        if method == b"GET":
            self._session = path.rsplit(b"/", 1)[1].decode()
            self._transport.write(_STREAM)
            _readers[self._session].add(self._transport)
            return
        if path.endswith(b"/chat"):
            task = asyncio.get_running_loop().create_task(_run(orjson.loads(body)))
            _tasks.add(task)
            task.add_done_callback(_tasks.discard)
        self._transport.write(b"HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\n\r\n{}")

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if self._session is not None:
            _readers[self._session].discard(self._transport)


async def _run(body: dict[str, Any]) -> None:
    session_id = body["session_id"]
    seq = 0
    async for word in producer.words(body["options"]):
        seq += 1
        data = orjson.dumps({"type": "token", "content": word, "seq": seq})
        frame = b"id: 1-%d\ndata: %b\n\n" % (seq, data)
        chunk = b"%x\r\n%b\r\n" % (len(frame), frame)
        for transport in _readers[session_id]:
            transport.write(chunk)


def serve(config: dict[str, Any], announce: Callable[[int, int], None]) -> None:
    """Run it until it is killed."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(_Protocol, "127.0.0.1", 0, backlog=4096)
        announce(server.sockets[0].getsockname()[1], producer.listen())
        await asyncio.Event().wait()

    uvloop.run(main())
