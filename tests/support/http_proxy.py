"""A proxy in front of a gateway that loses, cuts, holds and replaces answers.

It looks at the head of a request only, and asks the gateway to close the connection after its
answer: so every request has a connection of its own, and a fault hits one answer.
"""

import json
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from tests.processes import free_port

_ACCEPT_SECONDS = 0.1
_CHUNK = 64 * 1024


@dataclass
class Fault:
    """What happens to the next answers to requests whose line begins with `route`."""

    kind: Literal["cut", "stall", "answer", "drip"]
    route: str
    times: int = 1
    after_bytes: int = 0
    reset: bool = False
    piece_bytes: int = 1
    status: int = 503
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Any = None

    def answer(self) -> bytes:
        """Return the whole answer of an `answer`."""
        body = b"" if self.json is None else json.dumps(self.json).encode()
        headers = {
            "Content-Type": "application/problem+json",
            "Content-Length": str(len(body)),
            "Connection": "close",
            **self.headers,
        }
        lines = [f"HTTP/1.1 {self.status} Answered", *(f"{k}: {v}" for k, v in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode() + body


class HttpProxy:
    """Connections to a gateway at `port` of this machine.

    Attributes:
        url: Where clients find it.
        lines: The request lines that have come.
        answered_bytes: The bytes of the last answer to each request line, of those without a fault.
    """

    def __init__(self, gateway_port: int) -> None:
        self._gateway_port = gateway_port
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.lines: list[str] = []
        self.answered_bytes: dict[str, int] = {}
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._acceptor: threading.Thread | None = None
        self._is_up = False

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def up(self) -> None:
        """Take connections."""
        listener = socket.create_server(("127.0.0.1", self._port))
        listener.settimeout(_ACCEPT_SECONDS)
        self._is_up = True
        self._acceptor = threading.Thread(target=self._accept, args=(listener,), daemon=True)
        self._acceptor.start()

    def down(self) -> None:
        """Refuse connections, and end those that there are."""
        with self._lock:
            self._is_up = False
        if self._acceptor is not None:
            self._acceptor.join(60)
        with self._lock:
            ending = list(self._sockets)
        for one in ending:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def add(self, fault: Fault) -> None:
        """Let this happen from now on, to the next requests that it is for."""
        with self._lock:
            self._faults.append(fault)

    def _accept(self, listener: socket.socket) -> None:
        with listener:
            while self._is_up:
                try:
                    client, _ = listener.accept()
                except TimeoutError:
                    continue
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _fault_for(self, line: str) -> Fault | None:
        with self._lock:
            self.lines.append(line)
            for fault in self._faults:
                if fault.times > 0 and line.startswith(fault.route):
                    fault.times -= 1
                    return fault
        return None

    def _serve(self, client: socket.socket) -> None:
        client.settimeout(None)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(OSError), self._kept(client):
            head, rest = _read_head(client)
            if not head:
                return
            line, _, headers = head.partition(b"\r\n")
            fault = self._fault_for(line.decode())
            if fault is not None and fault.kind == "answer":
                _read_body(client, headers, rest)
                client.sendall(fault.answer())
                return
            gateway = socket.create_connection(("127.0.0.1", self._gateway_port))
            with self._kept(gateway):
                kept = [one for one in headers.split(b"\r\n") if one and not _is_connection(one)]
                asked = b"\r\n".join([line, *kept, b"Connection: close", b"", b""])
                gateway.sendall(asked + rest)
                threading.Thread(target=_pump, args=(client, gateway), daemon=True).start()
                self._answer(client, gateway, line.decode(), fault)

    def _answer(
        self, client: socket.socket, gateway: socket.socket, line: str, fault: Fault | None
    ) -> None:
        sent = 0
        while chunk := gateway.recv(_CHUNK):
            if fault is None:
                # Before the client has it: who has a whole answer finds its bytes here.
                self.answered_bytes[line] = sent + len(chunk)
                client.sendall(chunk)
            elif fault.kind == "drip":
                for at in range(0, len(chunk), fault.piece_bytes):
                    client.sendall(chunk[at : at + fault.piece_bytes])
            else:
                client.sendall(chunk[: max(0, fault.after_bytes - sent)])
            sent += len(chunk)
            if fault is not None and fault.kind in {"cut", "stall"} and sent >= fault.after_bytes:
                if fault.kind == "stall":
                    while gateway.recv(_CHUNK):
                        pass  # until the client or the gateway has gone
                if fault.reset:
                    linger = struct.pack("ii", 1, 0)
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                return

    def _kept(self, one: socket.socket) -> "_Kept":
        return _Kept(one, self._sockets, self._lock, lambda: self._is_up)


class _Kept:
    """Closes a socket at the end of a block; meanwhile `down` can end it."""

    def __init__(
        self,
        one: socket.socket,
        sockets: set[socket.socket],
        lock: threading.Lock,
        is_up: Callable[[], bool],
    ) -> None:
        self._socket, self._sockets, self._lock, self._is_up = one, sockets, lock, is_up

    def __enter__(self) -> None:
        with self._lock:
            if not self._is_up():
                self._socket.close()
                raise ConnectionAbortedError
            self._sockets.add(self._socket)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._sockets.discard(self._socket)
        # Another thread may wait in it: closing alone would leave it open. Shut down for
        # reading alone, a connection that is to be reset is not ended before.
        with suppress(OSError):
            linger = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)
            is_reset = linger == struct.pack("ii", 1, 0)
            self._socket.shutdown(socket.SHUT_RD if is_reset else socket.SHUT_RDWR)
        self._socket.close()


def _pump(source: socket.socket, target: socket.socket) -> None:
    """Pass on what the client still sends; end the gateway's connection when it has gone."""
    with suppress(OSError):
        while chunk := source.recv(_CHUNK):
            target.sendall(chunk)
    with suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


def _read_head(client: socket.socket) -> tuple[bytes, bytes]:
    read = b""
    while b"\r\n\r\n" not in read:
        chunk = client.recv(_CHUNK)
        if not chunk:
            return b"", b""
        read += chunk
    head, _, rest = read.partition(b"\r\n\r\n")
    return head, rest


def _read_body(client: socket.socket, headers: bytes, rest: bytes) -> None:
    wanted = 0
    for line in headers.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            wanted = int(value)
    read = len(rest)
    while read < wanted and (chunk := client.recv(_CHUNK)):
        read += len(chunk)


def _is_connection(line: bytes) -> bool:
    return line.partition(b":")[0].strip().lower() == b"connection"
