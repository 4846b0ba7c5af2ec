"""The way to an upstream: its URL, the proxy before it, and TLS.

Proxies come from the environment (`HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`; also in
lower case), on macOS from the system's settings where the environment names none. A proxy is
`http://` or `https://`, perhaps with a name and password. Certificates are checked against
`SSL_CERT_FILE`, `SSL_CERT_DIR`, or else the list that the package `certifi` has.
"""

import asyncio
import os
import re
import ssl
from asyncio.staggered import staggered_race
from base64 import b64encode
from collections.abc import Mapping
from functools import partial
from ipaddress import ip_address
from itertools import zip_longest
from socket import SOCK_STREAM
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit
from urllib.request import getproxies

import anyio
import certifi
import idna

from bamboo_gateway.agents.upstream_connection import BrokenConnectionError, Connection

_NEXT_ADDRESS_SECONDS = 0.25
"""After this time without a connection the host's next address is tried beside (RFC 8305, 5)."""

_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[a-z0-9_]([a-z0-9._-]*[a-z0-9_.])?")
_HEADER = re.compile(r"[!-9;-~]+: [\t -~]*")
_AS_IT_IS = "%/:=&?~+!$,;'@()*[]|"
"""Characters of a path or query that are sent as they are; others are percent-encoded."""


class NoConnectionError(Exception):
    """No connection to the upstream could be made."""


class Origin(NamedTuple):
    """The server that a URL names; `host` without the brackets of an IPv6 address."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """Host and port as in URLs."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Route:
    """The way to the server of one URL.

    Args:
        url: An `http` or `https` URL.
        connect_seconds_max: How long making a connection may take, TLS and all.

    Raises:
        ValueError: The URL, or the proxy or certificate settings of the environment cannot be used.
            The message is one line.
    """

    def __init__(self, url: str, connect_seconds_max: float) -> None:
        self._seconds_max = connect_seconds_max
        self._origin = _origin_of(url)
        try:
            proxy = _proxy_for(self._origin)
            self._proxy = None if proxy is None else _origin_of(proxy, may_hold_password=True)
            self._password = {} if proxy is None else _authorization(proxy)
            secure = "https" in {self._origin.scheme, self._proxy and self._proxy.scheme}
            self._tls = _tls() if secure else None
        except (ValueError, OSError) as error:
            raise ValueError(
                "the environment's proxy or certificate settings cannot be used"
                f" ({type(error).__name__})"
            ) from error
        parts = urlsplit(url)
        path = quote(parts.path or "/", _AS_IT_IS)
        if parts.query:
            path += "?" + quote(parts.query, _AS_IT_IS)
        origin, host = self._origin, self._origin.authority
        if origin.port == _PORTS[origin.scheme]:
            host = host.rpartition(":")[0]
        own = {"Host": host, "Accept-Encoding": "identity", "User-Agent": "bamboo-gateway"}
        if self._proxy is not None and origin.scheme == "http":
            # A proxy reads requests in the clear, and forwards them.
            path, own = f"http://{host}{path}", own | self._password
        self._target, self._headers = path, own

    def head_of(self, method: str, headers: Mapping[str, str]) -> bytes:
        """Return the head of a request to the URL.

        Raises:
            ValueError: A header has characters that no header can have.
        """
        lines = [f"{name}: {value}" for name, value in (*self._headers.items(), *headers.items())]
        if not all(map(_HEADER.fullmatch, lines)):
            raise ValueError("a header with characters that no header can have")
        return "\r\n".join([f"{method} {self._target} HTTP/1.1", *lines, "", ""]).encode("ascii")

    async def connect(self) -> Connection:
        """Return a new connection to the server, on which requests can be sent.

        Raises:
            NoConnectionError: There is none, or not in time.
        """
        made: list[Connection] = []
        connection = None
        try:
            with anyio.move_on_after(self._seconds_max):
                connection = await self._connect(made)
        except (OSError, UnicodeError, BrokenConnectionError) as error:
            raise NoConnectionError(str(error) or type(error).__name__) from error
        finally:
            for other in made:
                if other is not connection:
                    other.abort()
        if connection is None:
            raise NoConnectionError("no connection in time")
        return connection

    async def _connect(self, made: list[Connection]) -> Connection:
        """Connect, perhaps through a proxy; `made` gets every connection, also those of no use."""
        origin = self._origin
        connection = await self._dial(self._proxy or origin, made)
        if self._proxy is None or origin.scheme == "http":
            return connection
        # The server is asked through a tunnel that the proxy only passes on.
        lines = {"Host": origin.authority} | self._password
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        connection.send(f"CONNECT {origin.authority} HTTP/1.1\r\n{head}\r\n".encode("ascii"))
        await connection.wait_for_head()
        if not 200 <= connection.status < 300:
            raise ConnectionRefusedError(f"the proxy answered with HTTP {connection.status}")
        assert self._tls is not None
        await connection.start_tls(self._tls, origin.host)
        return connection

    async def _dial(self, server: Origin, made: list[Connection]) -> Connection:
        """Connect to a server, at the first of its addresses that answers."""
        tls, name = (self._tls, server.host) if server.scheme == "https" else (None, None)
        loop = asyncio.get_running_loop()

        def new() -> Connection:
            made.append(Connection())
            return made[-1]

        async def dial(address: str) -> Connection:
            _, connection = await loop.create_connection(
                new, address, server.port, ssl=tls, server_hostname=name
            )
            return connection

        if _is_address(server.host):
            return await dial(server.host)
        found = await loop.getaddrinfo(server.host, server.port, type=SOCK_STREAM)
        addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
        tries = [partial(dial, address) for address in _mixed(addresses)]
        winner: Connection | None
        winner, _, errors = await staggered_race(tries, _NEXT_ADDRESS_SECONDS)
        if winner is None:
            raise errors[-1] or OSError("the host cannot be reached")
        return winner


def _mixed(addresses: list[str]) -> list[str]:
    """Alternate between IPv6 and IPv4, since one of them may lead nowhere on this network."""
    kinds: dict[bool, list[str]] = {":" in address: [] for address in addresses}
    for address in addresses:
        kinds[":" in address].append(address)
    return [address for pair in zip_longest(*kinds.values()) for address in pair if address]


def _origin_of(text: str, *, may_hold_password: bool = False) -> Origin:
    """Return the server that a URL names.

    Raises:
        ValueError: The URL cannot be used.
    """
    try:
        # `urlsplit` would leave out tabs and line ends.
        parts = urlsplit(text if text.isprintable() else "[")
    except ValueError as error:
        raise ValueError("its URL cannot be read") from error
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError("its URL is not http(s)://host…")
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError("its URL has an invalid port")
    if "@" in parts.netloc and not may_hold_password:
        raise ValueError("its URL holds a name or password, which would show up in lists")
    return Origin(parts.scheme, _host_of(parts.hostname), port or _PORTS[parts.scheme])


def _host_of(name: str) -> str:
    if _is_address(name):
        return name
    if not name.isascii():
        try:
            name = idna.encode(name).decode()
        except idna.IDNAError:
            name = ""
    if not _HOST.fullmatch(name):
        raise ValueError("its URL cannot be read")
    return name


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _proxy_for(origin: Origin) -> str | None:
    """Return the URL of the proxy before a server; None if there is none."""
    proxies = getproxies()
    exempt = (entry.strip().lower() for entry in proxies.get("no", "").split(","))
    if any(_names(entry, origin) for entry in exempt if entry):
        return None
    proxy = proxies.get(origin.scheme) or proxies.get("all")
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


def _names(entry: str, origin: Origin) -> bool:
    """Return whether an entry of `NO_PROXY` names a server: `*`, its host or a domain it is in."""
    if entry == "*" or _is_address(entry):
        return entry in {"*", origin.host}
    parts = urlsplit(entry if "://" in entry else f"//{entry}")
    if parts.scheme not in {"", origin.scheme} or parts.port not in {None, origin.port}:
        return False
    name = (parts.hostname or "").removeprefix("*")
    return origin.host == name or origin.host.endswith("." + name.removeprefix("."))


def _authorization(proxy: str) -> dict[str, str]:
    parts = urlsplit(proxy)
    if parts.username is None:
        return {}
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
    return {"Proxy-Authorization": f"Basic {b64encode(pair).decode()}"}


def _tls() -> ssl.SSLContext:
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    context = ssl.create_default_context(
        cafile=file or (None if folder else certifi.where()),
        capath=None if file else folder or None,
    )
    context.set_alpn_protocols(["http/1.1"])
    return context
