"""Which web pages may call the gateway: those of its own origin, and those of `cors_origins`."""

from collections.abc import Set
from typing import Final

from starlette.types import Scope

from bamboo_gateway.api.problems import EdgeError

_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_FOREIGN_SITES: Final = frozenset({b"cross-site", b"same-site"})


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
