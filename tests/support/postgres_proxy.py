"""A proxy between the gateway and PostgreSQL that cuts connections at any statement.

It reads the messages of the protocol (https://www.postgresql.org/docs/current/protocol.html) just
far enough to know where a statement ends: a client ends one with Sync or Query, the server answers
it up to ReadyForQuery.
"""

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto
from typing import Self

_SSL_REQUEST, _GSS_REQUEST = 80877103, 80877104
_ACCEPT_SECONDS = 0.2


class Cut(Enum):
    """Where the connection ends."""

    BEFORE = auto()
    """The statement does not reach the server."""
    BETWEEN = auto()
    """The statement reaches the server; nobody waits for its answer."""
    AFTER = auto()
    """The server has answered; the answer does not reach the client."""


class PostgresProxy:
    """Connections to a server at `port` of this machine.

    Attributes:
        port: Where it listens.
        statements: How many statements have come from clients, on all connections.
    """

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(_ACCEPT_SECONDS)
        self.port: int = self._listener.getsockname()[1]
        self.statements = 0
        self.cuts = 0
        self._is_open = True
        self._refuses = False
        self._flows = threading.Event()
        self._flows.set()
        self._should_cut: Callable[[bytes], Cut | None] = lambda _: None
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._acceptor = threading.Thread(target=self._accept, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._acceptor.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_open = False
        self._acceptor.join()
        self._listener.close()
        self._flows.set()
        self.cut_all()

    def cut_when(self, should_cut: Callable[[bytes], Cut | None]) -> None:
        """Ask `should_cut` at each statement, with all its bytes, whether and where to cut."""
        self._should_cut = should_cut

    def cut_nth(self, nth: int, where: Cut) -> None:
        """Cut at the nth statement from now, 1 being the next; later ones pass."""
        target = self.statements + nth
        self.cut_when(lambda _: where if self.statements == target else None)

    def lead_to(self, server_port: int) -> None:
        """Lead to another server, and cut what leads to this one."""
        self._server_port = server_port
        self.cut_all()

    def cut_all(self) -> None:
        """Cut every connection now."""
        with self._lock:
            sockets, self._sockets = self._sockets, set()
        for one in sockets:
            _cut(one)

    def refuse(self) -> None:
        """Cut every connection, and end new ones at once."""
        self._refuses = True
        self.cut_all()

    def refuse_new(self) -> None:
        """End new connections at once; those that there are stay."""
        self._refuses = True

    def hold(self) -> None:
        """Let nothing pass, in both directions, as a network that loses every packet."""
        self._flows.clear()

    def heal(self) -> None:
        """Let everything pass again."""
        self._refuses = False
        self._should_cut = lambda _: None
        self._flows.set()

    def _accept(self) -> None:
        while self._is_open:
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            if self._refuses:
                client.close()
                continue
            threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        client.settimeout(None)
        try:
            server = socket.create_connection(("127.0.0.1", self._server_port))
        except OSError:
            client.close()
            return
        for one in (client, server):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._sockets |= {client, server}
        # Where the connection is cut once the server has answered.
        answer_is_lost = threading.Event()
        backward = threading.Thread(
            target=self._relay_answers, args=[server, client, answer_is_lost], daemon=True
        )
        with suppress(OSError, EOFError):
            server.sendall(_startup(client))
            backward.start()
            self._relay_statements(client, server, answer_is_lost)
        _cut(server)
        if backward.ident is not None:
            backward.join()
        _cut(client)
        with self._lock:
            self._sockets -= {client, server}
        for one in (client, server):
            one.close()

    def _relay_statements(
        self, client: socket.socket, server: socket.socket, answer_is_lost: threading.Event
    ) -> None:
        statement = b""
        while True:
            kind, message = _message(client)
            self._flows.wait()
            statement += message
            if kind in b"QS":
                with self._lock:
                    self.statements += 1
                    where = self._should_cut(statement)
                    self.cuts += where is not None
                if where is Cut.BEFORE:
                    return
                if where is not None:
                    answer_is_lost.set()
                server.sendall(statement)
                if where is Cut.BETWEEN:
                    # The server reads the whole statement, and then the connection's end.
                    return
                statement = b""
            elif kind not in b"PBDECFH":
                # Passwords, copies and goodbyes: they are answered without a statement's end.
                server.sendall(statement)
                statement = b""

    def _relay_answers(
        self, server: socket.socket, client: socket.socket, answer_is_lost: threading.Event
    ) -> None:
        with suppress(OSError, EOFError):
            while True:
                kind, message = _message(server)
                self._flows.wait()
                if not answer_is_lost.is_set():
                    client.sendall(message)
                elif kind == b"Z":
                    break
        _cut(client)


def _startup(client: socket.socket) -> bytes:
    """Return the startup message; refuse encryption, which this could not read."""
    while True:
        length = _exactly(client, 4)
        body = _exactly(client, struct.unpack("!I", length)[0] - 4)
        if len(body) == 4 and struct.unpack("!I", body)[0] in (_SSL_REQUEST, _GSS_REQUEST):
            client.sendall(b"N")
            continue
        return length + body


def _message(source: socket.socket) -> tuple[bytes, bytes]:
    """Return the kind of the next message and all its bytes."""
    head = _exactly(source, 5)
    return head[:1], head + _exactly(source, struct.unpack("!I", head[1:])[0] - 4)


def _exactly(source: socket.socket, size: int) -> bytes:
    found = bytearray()
    while len(found) < size:
        if not (piece := source.recv(min(size - len(found), 1 << 20))):
            raise EOFError
        found += piece
    return bytes(found)


def _cut(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
