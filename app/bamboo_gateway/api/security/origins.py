"""Which web pages may call the gateway: those of its own origin, and those of `cors_origins`."""

import re
from collections.abc import Set
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Final

from starlette.types import Scope

from bamboo_gateway.api.problems import EdgeError
from bamboo_gateway.credentials.gate import Gate
from bamboo_gateway.domain.errors import InvalidId
from bamboo_gateway.settings import Settings

_HOST: Final = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[^\[\]:]+)(?::[0-9]{0,5})?")
_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_FOREIGN_SITES: Final = frozenset({b"cross-site", b"same-site"})


class OriginGuard:
    """Refuse requests that a web page of another origin makes a browser send.

    A gateway without credentials serves everyone who reaches its port. Therefore it closes two ways
    to it: a name that an attacker's DNS points at this machine (`Host`), and a page of another
    origin (`Origin`). With credentials a foreign page has none to send, and the gateway may run
    behind any name.

    `bamboo serve` refuses to listen on an address that other machines reach without credentials.
    Another server may do it, so requests that came in by such an address are refused.

    With `insecure` the address may be any, and the host may also be an IP address or a name without
    dots: DNS rebinding needs a name in the attacker's own DNS.
    """

    def __init__(self, settings: Settings, gate: Gate) -> None:
        self._gate = gate
        self._insecure = settings.insecure
        self._origins = frozenset(settings.cors_origins)

    def check(self, scope: Scope) -> None:
        """Refuse a request that may come from a foreign page.

        Raises:
            EdgeError, InvalidId: The request is refused.
        """
        hosts = values_of(scope, b"host")
        if len(hosts) > 1:
            raise EdgeError("malformed", "The request has more than one Host header.")
        if b"%2f" in scope["raw_path"].lower():
            # The server decodes the path: an id with a slash would match another route.
            raise InvalidId(
                "An id cannot contain a slash.",
                errors=[{"loc": ["path"], "msg": "%2F is not allowed"}],
            )
        if not self._gate.is_open:
            return
        if not (self._insecure or _is_loopback((scope.get("server") or ("",))[0])):
            raise EdgeError(
                "host-not-allowed",
                "This gateway asks for no credential, so it answers only on a loopback address.",
            )
        host = hosts[0].decode("latin-1") if hosts else ""
        if not _is_own_name(host, allows_addresses=self._insecure):
            raise EdgeError("host-not-allowed")
        for name, value in scope["headers"]:
            if name == b"origin" and not self._may_call(value.decode("latin-1"), host):
                raise EdgeError("origin-not-allowed")

    def _may_call(self, origin: str, host: str) -> bool:
        return origin in self._origins or "*" in self._origins or is_own_origin(origin, host)


@lru_cache(maxsize=64)
def _is_own_name(host: str, *, allows_addresses: bool) -> bool:
    """Return whether a `Host` names this machine: most requests name it as the one before did."""
    match = _HOST.fullmatch(host)
    if match is None:
        return False
    name = match["name"].lower().removesuffix(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ip_address(name.strip("[]"))
    except ValueError:
        return allows_addresses and "." not in name
    return address.is_loopback or allows_addresses


@lru_cache(maxsize=64)
def _is_loopback(host: str) -> bool:
    """Return whether the server's address is a loopback address, or no IP address at all."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return True  # a Unix socket, or a test without a server
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def values_of(scope: Scope, header: bytes) -> list[bytes]:
    """Return all values of a header."""
    return [value for name, value in scope["headers"] if name == header]


def is_own_origin(origin: str, host: str) -> bool:
    """Return whether an origin is the request's own host."""
    scheme, separator, rest = origin.partition("://")
    return bool(separator) and scheme in {"http", "https"} and rest.lower() == host.lower()


def check_cookie_origin(scope: Scope, listed: Set[str]) -> None:
    """Refuse a request that a page of another origin makes a browser send with its cookie (CSRF).

    A browser sends the page's `Origin` with every request that changes something, and with every
    read by a script of another origin. A request without it is a read: by a page of the gateway, by
    the address bar, or by an image or script element of another page, which has `Sec-Fetch-Site`.

    Args:
        scope: The request's scope.
        listed: Origins that may call. `*` allows none to call with a cookie.

    Raises:
        EdgeError: `origin-not-allowed`.
    """
    origins = values_of(scope, b"origin")
    host = b"".join(values_of(scope, b"host")).decode("latin-1")
    for origin in (value.decode("latin-1") for value in origins):
        if not (is_own_origin(origin, host) or origin in listed):
            raise EdgeError("origin-not-allowed")
    if origins:
        return
    if scope["method"] not in _READING:
        raise EdgeError(
            "origin-not-allowed",
            "A request with a login cookie that changes something needs an Origin header.",
        )
    is_foreign = not _FOREIGN_SITES.isdisjoint(values_of(scope, b"sec-fetch-site"))
    if is_foreign and values_of(scope, b"sec-fetch-mode") != [b"navigate"]:
        raise EdgeError("origin-not-allowed")
