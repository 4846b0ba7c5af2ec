"""Which web pages may call: those of the gateway's own origin, and those that are listed."""

from collections.abc import Set
from typing import Final

from starlette.types import Scope

from bamboo_gateway.api.problems import EdgeError

_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_FOREIGN_SITES: Final = frozenset({b"cross-site", b"same-site"})


def values_of(scope: Scope, header: bytes) -> list[bytes]:
    """Gives all values of a header."""
    return [value for name, value in scope["headers"] if name == header]


def is_own_origin(origin: str, host: str) -> bool:
    """Tells whether a page of this origin was served under the name that is asked now."""
    scheme, separator, rest = origin.partition("://")
    return bool(separator) and scheme in {"http", "https"} and rest.lower() == host.lower()


def check_cookie_origin(scope: Scope, listed: Set[str]) -> None:
    """Refuses what a browser sends with a cookie for a page that nobody lists (CSRF).

    Browsers name the page's origin with all that changes something, and with all that another
    origin reads by script. What carries none is a read: of the page itself, of the address bar, or
    of a foreign page's image or script, which `Sec-Fetch-Site` gives away.

    Args:
        scope: The request's.
        listed: Origins that may call; `*` lists none, for a cookie.

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
            "origin-not-allowed", "With a cookie, what changes something needs an Origin header."
        )
    is_foreign = not _FOREIGN_SITES.isdisjoint(values_of(scope, b"sec-fetch-site"))
    if is_foreign and values_of(scope, b"sec-fetch-mode") != [b"navigate"]:
        raise EdgeError("origin-not-allowed")
