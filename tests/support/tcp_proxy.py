"""A proxy between two programs that cuts, holds and delays what passes, whatever they speak."""

import selectors
import socket
import threading
from collections import deque
from contextlib import suppress
from time import monotonic
from typing import Self

_CHUNK = 1 << 16
# What one direction of a connection may hold back, so that a delay costs bounded memory.
_HELD_BYTES_MAX = 1 << 20
_TURN_SECONDS = 0.05


class TcpProxy:
    """Connections to a server at `port` of this machine, all in one thread.

    Attributes:
        port: Where it listens.
        connections: How many connections it has taken.
    """

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        self._delay_seconds = 0.0
        self._refuses = self._holds = self._should_cut = False
        self._is_open = True
        self._ways: set[_Way] = set()
        self._thread = threading.Thread(target=self._serve, name="tcp proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_open = False
        self._thread.join()
        self._listener.close()

    def cut_all(self) -> None:
        """Cut every connection that there is."""
        self._should_cut = True

    def refuse(self) -> None:
        """Cut every connection, and end new ones at once."""
        self._refuses = True
        self._should_cut = True

    def hold(self) -> None:
        """Let nothing pass, in both directions, as a network that loses every packet."""
        self._holds = True

    def delay(self, seconds: float) -> None:
        """Let everything that comes from now on pass so much later."""
        self._delay_seconds = seconds

    def heal(self) -> None:
        """Let everything pass at once again."""
        self._refuses = self._holds = False
        self._delay_seconds = 0.0

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            while self._is_open:
                for key, _ in selector.select(self._wait_seconds()):
                    if key.data is None:
                        self._accept(selector)
                    elif not self._holds:
                        key.data.read(monotonic() + self._delay_seconds)
                if self._should_cut:
                    self._should_cut = False
                    for way in self._ways:
                        way.is_over = True
                if not self._holds:
                    for way in self._ways:
                        way.write(monotonic())
                self._settle(selector)
            for way in self._ways:
                way.is_over = True
            self._settle(selector)

    def _wait_seconds(self) -> float:
        """Return how long nothing has to be done unless bytes come."""
        # Readable sockets that are not read would wake the selector at once, again and again; a
        # held proxy has unregistered them (`_settle`).
        return 0.002 if any(way.has_bytes for way in self._ways) else _TURN_SECONDS

    def _accept(self, selector: selectors.BaseSelector) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:
            return
        self.connections += 1
        if self._refuses:
            client.close()
            return
        try:
            server = socket.create_connection(("127.0.0.1", self._server_port), 5)
        except OSError:
            client.close()
            return
        for one in (client, server):
            one.setblocking(False)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        there, back = _Way(client, server), _Way(server, client)
        there.other, back.other = back, there
        self._ways |= {there, back}
        for way in (there, back):
            selector.register(way.source, selectors.EVENT_READ, way)

    def _settle(self, selector: selectors.BaseSelector) -> None:
        """Close what has ended, and read from exactly those that have room."""
        for way in list(self._ways):
            if way.is_over or way.other.is_over:
                self._ways -= {way, way.other}
                for one in (way, way.other):
                    with suppress(KeyError, ValueError):
                        selector.unregister(one.source)
                    with suppress(OSError):
                        one.source.shutdown(socket.SHUT_RDWR)
                    one.source.close()
        for way in self._ways:
            is_read = way.source in selector.get_map()
            wanted = not self._holds and way.has_room
            if wanted and not is_read:
                selector.register(way.source, selectors.EVENT_READ, way)
            elif is_read and not wanted:
                selector.unregister(way.source)


class _Way:
    """One direction of a connection."""

    other: "_Way"

    def __init__(self, source: socket.socket, target: socket.socket) -> None:
        self.source = source
        self.is_over = False
        self._target = target
        self._pieces: deque[tuple[float, bytes]] = deque()
        self._bytes = 0
        self._has_ended = False

    @property
    def has_bytes(self) -> bool:
        return bool(self._pieces)

    @property
    def has_room(self) -> bool:
        return not self._has_ended and self._bytes < _HELD_BYTES_MAX

    def read(self, due: float) -> None:
        """Take what has come; it is passed on at `due`."""
        try:
            piece = self.source.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            self.is_over = True
            return
        if not piece:
            self._has_ended = True
        self._pieces.append((due, piece))
        self._bytes += len(piece)

    def write(self, now: float) -> None:
        """Pass on what is due."""
        while self._pieces and self._pieces[0][0] <= now:
            due, piece = self._pieces.popleft()
            if not piece:
                with suppress(OSError):
                    self._target.shutdown(socket.SHUT_WR)
                # Both ends have ended: the connection is over.
                self.is_over = self.other._has_ended and not self.other._pieces
                return
            try:
                sent = self._target.send(piece)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.is_over = True
                return
            self._bytes -= sent
            if sent < len(piece):
                self._pieces.appendleft((due, piece[sent:]))
                return
