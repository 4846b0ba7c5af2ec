"""The uvicorn server whose SIGTERM starts the drain before connections are waited for.

Deviations from `uvicorn.run`, each with its reason:

* The app's lifespan is entered here and not by uvicorn, which would show a failed start as a
  traceback, and leave the lifespan out when a second signal forces the end. It is entered when the
  port is open already: whoever watches a long recovery is told so, and the others wait for it.
* A signal starts the drain, and `should_exit` is set only when that is done: uvicorn closes its
  listeners and waits for connections as soon as it is set, and open streams never end by
  themselves. The exit code is 0; uvicorn would raise the signal again.
* The sockets are bound here: a port in use is said before the data directory is touched, and
  `TCP_USER_TIMEOUT` of a listening socket is inherited by every connection.
"""

import asyncio
import errno
import gc
import logging
import os
import resource
import socket
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from ipaddress import ip_address
from types import FrameType
from typing import TYPE_CHECKING, Final, NamedTuple

import anyio
import uvicorn
from fastapi import FastAPI
from typing_extensions import override
from uvicorn._compat import asyncio_run

from bamboo_gateway import __version__
from bamboo_gateway.credentials.gate import Gate
from bamboo_gateway.domain.errors import BambooError
from bamboo_gateway.main import create_app
from bamboo_gateway.observability.logs import configure_logs
from bamboo_gateway.server.connection_limits import ConnectionLimits
from bamboo_gateway.server.http1 import GatewayProtocol
from bamboo_gateway.server.memory import MemoryKeeper, share_one_heap
from bamboo_gateway.settings import Settings

if TYPE_CHECKING:
    from bamboo_gateway.sessions.manager import SessionManager

_FILES_MAX: Final = 1 << 20
"""Where the limit of open files is raised to when the machine names none."""

_KEEP_ALIVE_SECONDS: Final = 75
"""Longer than the idle time of common proxies and client pools (60 s), so that it is they who
close: a server that closes first races with the next request."""

_CLOSE_SECONDS: Final = 5
"""How long answers may still be read after the drain; then their connections are cut."""


_PROBE_SECONDS: Final = 60
"""After so long without a word the kernel asks a peer whether it is still there."""


class StartError(Exception):
    """The gateway cannot start, in one line for people. `exit_code` 2: the settings are wrong."""

    def __init__(self, detail: str, exit_code: int = 1) -> None:
        super().__init__(detail)
        self.exit_code = exit_code


def serve(settings: Settings) -> int:
    """Runs the gateway until a signal ends it.

    Returns:
        The exit code: 0 after a clean end, 1 when it cannot start, 2 when the settings forbid it.
    """
    share_one_heap()  # before the log has its thread
    configure_logs(settings.log_format, settings.log_level)
    try:
        addresses = _resolve(settings)
        app = _create(settings)
        gate: Gate = app.state.gate
        _check_reach(settings, gate, addresses)
        server = GatewayServer(app, partial(_started, settings, gate))
        _raise_file_limit()
        with ExitStack() as stack:
            sockets = [stack.enter_context(sock) for sock in _bind(settings, addresses)]
            asyncio_run(server.serve(sockets), loop_factory=server.config.get_loop_factory())
    except StartError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except BambooError as error:
        # The store is busy or unusable: its one line says why.
        sys.stderr.write(f"error: {error.detail}\n")
        return 1
    return 0


def _create(settings: Settings) -> FastAPI:
    try:
        return create_app(settings)
    except BambooError as error:  # the URL of a store or agent, or a file of credentials
        raise StartError(error.detail, exit_code=2) from error


class GatewayServer(uvicorn.Server):
    """See the module.

    Args:
        app: What `create_app` gave.
        on_started: Is told the port once requests are served.
    """

    def __init__(self, app: FastAPI, on_started: Callable[[int], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=GatewayProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                # Half a kilobyte a stream, for an address that is only shown to people.
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=_CLOSE_SECONDS,
            )
        )
        self._app = app
        app.state.connection_limits = ConnectionLimits(app.state.settings)
        self._on_started = on_started
        self._lifespan = AsyncExitStack()
        self._signals = 0
        self._told = anyio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    @override
    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        with self.capture_signals():
            try:
                async with self._lifespan:
                    await self._serve(sockets)
                    self._leave()
            except* _ForcedExit:
                pass

    def begin_exit(self) -> None:
        """Ends the gateway: drains first; called again, at once.

        Safe in a signal handler and in other threads.
        """
        self._signals += 1
        if self._signals == 1 and self._loop is not None:
            self._loop.call_soon_threadsafe(self._told.set)
        elif self._signals == 2:
            # What is cut now would be shown as an error of each request.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            self.force_exit = self.should_exit = True
        elif self._signals > 2:
            # The storage does not come back. Recovery is made for this.
            os._exit(1)

    @override
    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.begin_exit()

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        try:
            await self._lifespan.enter_async_context(self._app.router.lifespan_context(self._app))
        except BaseException:
            for server in self.servers:
                server.close()
            raise
        self._on_started(self.servers[0].sockets[0].getsockname()[1])

    @override
    async def main_loop(self) -> None:
        self._loop = asyncio.get_running_loop()
        if self._signals:
            self._told.set()
        async with anyio.create_task_group() as group:
            group.start_soon(self._drain_when_told, name="drain")
            group.start_soon(MemoryKeeper(self._served).run, name="memory")
            await super().main_loop()
            group.cancel_scope.cancel()

    def _served(self) -> int:
        return self.server_state.total_requests

    async def _drain_when_told(self) -> None:
        await self._told.wait()
        manager: SessionManager = self._app.state.manager
        manager.begin_drain()
        await manager.drain()
        self.should_exit = True

    def _leave(self) -> None:
        if self.force_exit:
            raise _ForcedExit


class _ForcedExit(Exception):
    """Leaves the lifespan without the drain that its regular end would wait for."""


class _Address(NamedTuple):
    family: socket.AddressFamily
    host: str


def _resolve(settings: Settings) -> list[_Address]:
    try:
        found = socket.getaddrinfo(
            settings.host or None, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        raise StartError(f"host {settings.host!r} is no address of this machine") from error
    return list(dict.fromkeys(_Address(entry[0], str(entry[4][0])) for entry in found))


def _check_reach(settings: Settings, gate: Gate, addresses: list[_Address]) -> None:
    if not gate.is_open or settings.insecure:
        return
    if not all(_is_loopback(address.host) for address in addresses):
        raise StartError(
            f"host {settings.host} can be reached by others: make a key (`bamboo keys create`) or "
            "set api_keys (BAMBOO_API_KEYS), or say that this is meant with --insecure",
            exit_code=2,
        )


def _is_loopback(host: str) -> bool:
    return ip_address(host.partition("%")[0]).is_loopback


def _bind(settings: Settings, addresses: list[_Address]) -> list[socket.socket]:
    """Binds every address of `host` to one port.

    Raises:
        StartError: One is in use, or none can be bound.
    """
    sockets: list[socket.socket] = []
    problem: OSError | None = None
    port = settings.port
    for family, host in addresses:
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:  # a machine without IPv6 still resolves `localhost` to ::1
            problem = error
            continue
        try:
            _prepare(sock, settings)
            sock.bind((host, port))
        except OSError as error:
            sock.close()
            problem = error
            if error.errno in {errno.EADDRINUSE, errno.EACCES}:
                break
            continue
        sockets.append(sock)
        port = sock.getsockname()[1]
    else:
        if sockets:
            return sockets
    for sock in sockets:
        sock.close()
    raise StartError(_bind_problem(settings, problem)) from problem


def _prepare(sock: socket.socket, settings: Settings) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # Small pings vanish into kernel buffers, so that a half-open client looks healthy.
        milliseconds = int(settings.send_timeout_seconds * 1000)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
    if hasattr(socket, "TCP_KEEPIDLE"):
        # To a peer that only sends, like a producer of NDJSON, nothing is sent that could time out.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _PROBE_SECONDS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_SECONDS)


def _bind_problem(settings: Settings, problem: OSError | None) -> str:
    where = f"{settings.host} port {settings.port}"
    match problem.errno if problem else None:
        case errno.EADDRINUSE:
            return f"{where} is in use; stop what listens there or choose another with --port"
        case errno.EACCES:
            return f"{where} may not be used by this user; choose a port above 1023 with --port"
        case _:
            return f"cannot listen on {where}: {problem.strerror if problem else 'no address'}"


def _raise_file_limit() -> None:
    """Every stream and every log is an open file; the usual soft limit of 1024 is soon reached."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES_MAX if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            return  # macOS refuses more than kern.maxfilesperproc: what there is has to do


def _started(settings: Settings, gate: Gate, port: int) -> None:
    # What is there now stays: the collector need not walk it again and again. Requests and streams
    # leave it nothing, so it is only to look after what an agent's own code leaves; `memory` looks
    # after what is large.
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    gc.enable()
    sys.stdout.write(_welcome(settings, port, asks_for_key=not gate.is_open))
    sys.stdout.flush()


def _welcome(settings: Settings, port: int, *, asks_for_key: bool) -> str:
    host = settings.host or "127.0.0.1"
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - shown, not bound
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"  # noqa: S104
    base = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    key = "-H 'Authorization: Bearer YOUR-KEY' " if asks_for_key else ""
    return (
        f"Bamboo Gateway {__version__} serves {base} - try:\n"
        f"  curl -N {key}-H 'Accept: text/event-stream' -H 'Content-Type: application/json' "
        f'-d \'{{"session_id":"s-1","message":"Hello!"}}\' {base}/api/v1/chat\n'
        f"  curl {key}{base}/api/v1/sessions/s-1/messages\n"
    )
