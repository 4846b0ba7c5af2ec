"""Posts to the URLs of webhooks, over httpcore.

A URL is what some user wrote, so a request must not reach what only the gateway can reach (SSRF):

* The host is looked up once, every address that it stands for is checked, and the connection is
  made to one of those addresses. A name that stands for something else a moment later changes
  nothing. The certificate is checked against the name, and `Host` is the name.
* Redirects are not followed. No proxy of the environment is used: it would look the name up itself.
* Each request has a connection of its own, and one deadline for everything. Of the answer a bounded
  part is read, and nothing but its status and `Retry-After` is used or shown.
"""

import os
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import Final
from urllib.parse import quote, urlsplit

import anyio
import certifi
import httpcore
from anyio import to_thread
from typing_extensions import override

from bamboo_gateway.domain.limits import WEBHOOK_ANSWER_BYTES_MAX
from bamboo_gateway.domain.networks import is_public
from bamboo_gateway.domain.webhook_urls import UrlRefusedError, target_of
from bamboo_gateway.webhooks.base import Attempt, Sender, SendError

Resolve = Callable[[str, int], list[str]]
"""Returns the addresses that a name stands for; blocks. Raises OSError."""

_LOOKUPS_MAX: Final = 8
"""Names that are looked up at a time; a resolver that hangs takes no thread of others."""

_ADDRESSES_MAX: Final = 4
"""Addresses of one name that are tried."""

_AS_IT_IS: Final = "%/:=&?~+!$,;'@()*[]|"
"""Characters of a path or query that are sent as they are."""

_BODY_SECONDS: Final = 1.0
"""How long the body of an answer may take."""

_RETRY_AFTER_CHARS_MAX: Final = 64


class AddressRefusedError(Exception):
    """A name stands for an address that no request is sent to."""


def addresses_of(host: str, port: int) -> list[str]:
    """Return the addresses that a name stands for, as the machine looks names up. Blocks.

    Raises:
        OSError: The name is unknown.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in found))


class CheckedBackend(httpcore.AsyncNetworkBackend):
    """Connects to the addresses that it has checked.

    Args:
        private: Whether private addresses are allowed.
        resolve: Looks names up; tests replace it.
    """

    def __init__(self, *, private: bool, resolve: Resolve = addresses_of) -> None:
        self._private = private
        self._resolve = resolve
        self._inner = httpcore.AnyIOBackend()
        self._limiter: anyio.CapacityLimiter | None = None

    @override
    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Look a name up, check its addresses, and connect to the first that answers.

        Raises:
            AddressRefusedError: One of them is refused. Then none is tried: who lists a private
                address beside a public one means no good.
            httpcore.ConnectError: None of them answers.
        """
        addresses = await self._addresses(host, port)
        if not self._private and not all(is_public(ip_address(each)) for each in addresses):
            raise AddressRefusedError(host)
        problem: Exception = httpcore.ConnectError("the name has no address")
        for address in addresses[:_ADDRESSES_MAX]:
            try:
                return await self._inner.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                problem = error
        raise problem

    async def _addresses(self, host: str, port: int) -> list[str]:
        try:
            return [str(ip_address(host))]
        except ValueError:
            pass  # it is a name
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(_LOOKUPS_MAX)
        try:
            return await to_thread.run_sync(
                self._resolve, host, port, abandon_on_cancel=True, limiter=self._limiter
            )
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"the name is unknown: {error}") from error


class HttpSender(Sender):
    """Posts each request on a connection of its own.

    Args:
        timeout_seconds: How long a request may take, connection and answer included.
        private: Whether private addresses, and plain `http`, are allowed.
        backend: Makes connections; tests replace it.
        trust: Certificates that are trusted beside those of the machine; tests have some.
    """

    def __init__(
        self,
        *,
        timeout_seconds: float,
        private: bool,
        backend: httpcore.AsyncNetworkBackend | None = None,
        trust: str | None = None,
    ) -> None:
        self._seconds = timeout_seconds
        self._private = private
        self._backend = backend or CheckedBackend(private=private)
        self._trust = trust
        self._tls: ssl.SSLContext | None = None

    @override
    def check_url(self, url: str) -> None:
        target_of(url, private=self._private)

    @override
    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Attempt:
        began = time.monotonic()
        status, error, retry_after = None, None, None
        try:
            with anyio.fail_after(self._seconds):
                status, retry_after = await self._post(url, headers, body)
            error = _of_status(status)
        except (UrlRefusedError, AddressRefusedError):
            error = "address-refused"
        except (TimeoutError, httpcore.TimeoutException):
            error = "timeout"
        except httpcore.ConnectError as problem:
            error = "tls-failed" if _is_of_tls(problem) else "unreachable"
        except Exception:  # noqa: BLE001 - whatever a stranger's server does, the gateway goes on
            error = "broken"
        return Attempt(status, error, round((time.monotonic() - began) * 1000), retry_after)

    async def _post(
        self, url: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, int | None]:
        target = target_of(url, private=self._private)
        if target.scheme == "https" and self._tls is None:
            self._tls = await to_thread.run_sync(_tls_context, self._trust)
        parts = urlsplit(url)
        path = quote(parts.path or "/", _AS_IT_IS)
        if parts.query:
            path += "?" + quote(parts.query, _AS_IT_IS)
        default = {"http": 80, "https": 443}[target.scheme]
        host = f"[{target.host}]" if ":" in target.host else target.host
        sent = {
            "Host": host if target.port == default else f"{host}:{target.port}",
            "User-Agent": "bamboo-gateway",
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            "Content-Length": str(len(body)),
            "Connection": "close",
            **headers,
        }
        address = httpcore.URL(
            scheme=target.scheme, host=target.host, port=target.port, target=path
        )
        async with httpcore.AsyncConnectionPool(
            ssl_context=self._tls,
            max_connections=1,
            max_keepalive_connections=0,
            network_backend=self._backend,
        ) as pool:
            request = pool.stream("POST", address, headers=list(sent.items()), content=body)
            async with request as got:
                await _read_some(got)
                return got.status, _retry_after(got.headers)


async def _read_some(answer: httpcore.Response) -> None:
    """Read a little of an answer's body, so that a receiver that sends one is not cut off.

    The status has said everything: a body that is endless, slow or broken changes nothing.
    """
    size = 0
    with suppress(httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException):
        with anyio.move_on_after(_BODY_SECONDS):
            async for chunk in answer.aiter_stream():
                size += len(chunk)
                if size > WEBHOOK_ANSWER_BYTES_MAX:
                    return


def _of_status(status: int) -> SendError | None:
    return None if 200 <= status < 300 else "status"


def _is_of_tls(problem: BaseException | None) -> bool:
    while problem is not None:
        if isinstance(problem, ssl.SSLError):
            return True
        problem = problem.__cause__ or problem.__context__
    return False


def _retry_after(headers: Iterable[tuple[bytes, bytes]]) -> int | None:
    for name, value in headers:
        text = value.decode("latin-1").strip()
        if name.lower() != b"retry-after" or len(text) > _RETRY_AFTER_CHARS_MAX:
            continue
        if text.isascii() and text.isdigit():
            return int(text)
        try:
            moment = parsedate_to_datetime(text).timestamp()
        except (TypeError, ValueError, OverflowError):
            return None
        return max(0, round(moment - time.time()))  # noqa: TID251 - the receiver's date is no Clock's
    return None


def _tls_context(trust: str | None) -> ssl.SSLContext:
    """Return what certificates are checked with: as for agents, `SSL_CERT_FILE` and `SSL_CERT_DIR`.

    Blocks.
    """
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    context = ssl.create_default_context(
        cafile=file or (None if folder else certifi.where()),
        capath=None if file else folder or None,
    )
    if trust is not None:
        context.load_verify_locations(cafile=trust)
    return context
