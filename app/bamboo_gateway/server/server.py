"""The uvicorn server whose SIGTERM starts the drain before it waits for connections.

Deviations from `uvicorn.run`, each with its reason:

* This server enters the app's lifespan. uvicorn would show a failed start as a traceback, and would
  skip the lifespan's end when a second signal forces the exit. The lifespan begins when the port is
  already open: monitoring sees a long recovery, and other requests wait for its end.
* A signal starts the drain, and `should_exit` is set when the drain is done: as soon as it is set,
  uvicorn closes its listeners and waits for connections, and open streams never end by themselves.
  The exit code is 0; uvicorn would raise the signal again.
* This server binds the sockets: it reports a port in use before it touches the data directory, and
  every connection inherits `TCP_USER_TIMEOUT` from its listening socket.

uvicorn documents none of the methods and attributes that `GatewayServer` overrides, so
`pyproject.toml` bounds its version, and `tests/server/test_uvicorn.py` checks that each exists.
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
"""The soft limit of open files when the machine has no hard limit."""

_KEEP_ALIVE_SECONDS: Final = 75
"""Longer than the idle time of common proxies and client pools (60 s), so that they close first: a
server that closes first races with the next request."""

_CLOSE_SECONDS: Final = 5
"""How long clients may read their answers after the drain, until their connections are cut."""

_PROBE_SECONDS: Final = 60
"""Seconds of silence after which the kernel probes whether a peer is still there."""


class StartError(Exception):
    """The gateway cannot start; the message is one line for people.

    Attributes:
        exit_code: 2 when the settings are wrong, otherwise 1.
    """

    def __init__(self, detail: str, exit_code: int = 1) -> None:
        super().__init__(detail)
        self.exit_code = exit_code


def serve(settings: Settings) -> int:
    """Run the gateway until a signal ends it.

    Returns:
        The exit code: 0 after a clean end, 1 when it cannot start, 2 when the settings forbid it.
    """
    share_one_heap()  # before the log starts its thread
    configure_logs(settings.log_format, settings.log_level)
    try:
        addresses = resolve(settings)
        app = _create(settings)
        gate: Gate = app.state.gate
        check_reach(settings, gate, addresses)
        server = GatewayServer(app, partial(_started, settings, gate, addresses))
        _raise_file_limit()
        with ExitStack() as stack:
            sockets = [stack.enter_context(sock) for sock in _bind(settings, addresses)]
            asyncio_run(server.serve(sockets), loop_factory=server.config.get_loop_factory())
    except StartError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except BambooError as error:
        # The store is in use or unusable; the detail says why.
        sys.stderr.write(f"error: {error.detail}\n")
        return 1
    return 0


def _create(settings: Settings) -> FastAPI:
    try:
        return create_app(settings)
    except BambooError as error:  # a wrong URL of a store or agent, or file of credentials
        raise StartError(error.detail, exit_code=2) from error


class GatewayServer(uvicorn.Server):
    """The gateway's server.

    Args:
        app: The app of `create_app`.
        on_started: Called with the port once requests are served; raises StartError to end it.
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
                # It would cost 0.5 KB per stream, for an address that is only shown to people.
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
        self._refusal: StartError | None = None
        self._signals = 0
        self._exit_wanted = anyio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    @override
    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        with self.capture_signals():
            try:
                async with self._lifespan:
                    await self._serve(sockets)
                    self._check_forced()
            except* _ForcedExit:
                pass
        if self._refusal is not None:
            raise self._refusal

    def begin_exit(self) -> None:
        """Begin the drain and then exit; the second call skips the drain, the third kills.

        Safe in a signal handler and in other threads.
        """
        self._signals += 1
        if self._signals == 1 and self._loop is not None:
            self._loop.call_soon_threadsafe(self._exit_wanted.set)
        elif self._signals == 2:
            # Otherwise every request that is cut now would be logged as an error.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            self.force_exit = self.should_exit = True
        elif self._signals > 2:
            # The storage does not return. The next start recovers.
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
        try:
            self._on_started(self.servers[0].sockets[0].getsockname()[1])
        except StartError as error:
            for server in self.servers:
                server.close()
            # Raised by `serve`, outside of all task groups.
            self._refusal, self.should_exit = error, True

    @override
    async def main_loop(self) -> None:
        self._loop = asyncio.get_running_loop()
        if self._signals:
            self._exit_wanted.set()
        async with anyio.create_task_group() as group:
            group.start_soon(self._drain_on_exit, name="drain")
            group.start_soon(MemoryKeeper(self._served).run, name="memory")
            await super().main_loop()
            group.cancel_scope.cancel()

    def _served(self) -> int:
        return self.server_state.total_requests

    async def _drain_on_exit(self) -> None:
        await self._exit_wanted.wait()
        manager: SessionManager = self._app.state.manager
        await manager.drain()
        self.should_exit = True

    def _check_forced(self) -> None:
        if self.force_exit:
            raise _ForcedExit


class _ForcedExit(Exception):
    """Leave the lifespan without the drain that its regular end would wait for."""


class _Address(NamedTuple):
    family: socket.AddressFamily
    host: str


def resolve(settings: Settings) -> list[_Address]:
    """Return the addresses of `host`.

    Raises:
        StartError: It is no address of this machine.
    """
    try:
        found = socket.getaddrinfo(
            settings.host or None, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        raise StartError(f"host {settings.host!r} is not an address of this machine") from error
    return list(dict.fromkeys(_Address(entry[0], str(entry[4][0])) for entry in found))


def check_reach(settings: Settings, gate: Gate, addresses: list[_Address]) -> None:
    """Check that nobody else reaches a gateway without credentials, unless that is meant.

    Raises:
        StartError: Other machines would.
    """
    if not gate.is_open or settings.insecure:
        return
    if not all(_is_loopback(address.host) for address in addresses):
        raise StartError(
            f"other machines can reach host {settings.host}: create a key (`bamboo keys create`), "
            "set api_keys (BAMBOO_API_KEYS), or allow it with --insecure",
            exit_code=2,
        )


def _is_loopback(host: str) -> bool:
    return ip_address(host.partition("%")[0]).is_loopback


def _bind(settings: Settings, addresses: list[_Address]) -> list[socket.socket]:
    """Bind every address of `host` to one port.

    Raises:
        StartError: An address is in use, or none can be bound.
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
        # The kernel buffers small pings, so that a half-open client would look healthy.
        milliseconds = int(settings.send_timeout_seconds * 1000)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
    if hasattr(socket, "TCP_KEEPIDLE"):
        # To a peer that only sends, like a producer of NDJSON, the gateway sends nothing that could
        # time out.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _PROBE_SECONDS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_SECONDS)


def _bind_problem(settings: Settings, problem: OSError | None) -> str:
    where = f"{settings.host} port {settings.port}"
    match problem.errno if problem else None:
        case errno.EADDRINUSE:
            return f"{where} is in use; stop the other program or choose another port with --port"
        case errno.EACCES:
            return f"this user may not listen on {where}; choose a port above 1023 with --port"
        case _:
            return f"cannot listen on {where}: {problem.strerror if problem else 'no address'}"


def _raise_file_limit() -> None:
    """Raise the soft limit of open files: streams and logs soon reach the usual 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES_MAX if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            return  # macOS refuses more than kern.maxfilesperproc: keep the limit there is


def _started(settings: Settings, gate: Gate, addresses: list[_Address], port: int) -> None:
    # Keys that the store keeps are known only now.
    check_reach(settings, gate, addresses)
    # The objects of the start stay, so the collector need not walk them again. Requests and streams
    # leave it nothing, so it only has to collect what an agent's own code leaves; `memory` collects
    # what is large.
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
    base += settings.root_path
    key = "-H 'Authorization: Bearer YOUR-KEY' " if asks_for_key else ""
    return (
        f"Bamboo Gateway {__version__} serves {base} - try:\n"
        f"  curl -N {key}-H 'Accept: text/event-stream' -H 'Content-Type: application/json' "
        f'-d \'{{"session_id":"s-1","message":"Hello!"}}\' {base}/api/v1/chat\n'
        f"  curl {key}{base}/api/v1/sessions/s-1/messages\n"
    )
