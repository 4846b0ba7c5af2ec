"""The path prefix: taken from a request's path once, and put before every URL of its answer.

A proxy may serve the gateway below a path, like `/bamboo`, and may strip that path or pass it on.
Behind `RequestContext` a scope's `path` and `raw_path` never have the prefix: the checks, the route
table, the log and the metrics see the same path. The scope's `PREFIX` is what URLs begin with.

A prefix has up to two parts. The outer one is `root_path`, or `X-Forwarded-Prefix` of a trusted
proxy in its place. The inner one is ASGI's `root_path`, where the server or a program that mounts
the app has said it. An inner part that begins with the outer one has it already.
"""

from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final
from urllib.parse import quote, unquote

from starlette.types import Scope

from bamboo_gateway.api.problems import EdgeError
from bamboo_gateway.domain.path_prefix import check_prefix
from bamboo_gateway.settings import Settings

PREFIX: Final = "bamboo.prefix"
"""The scope's key of the prefix of URLs in the answer; absent without one."""

_HEADER: Final = b"x-forwarded-prefix"


def prefix_of(scope: Scope) -> str:
    """Return what every URL in the answer to a request begins with: empty, or like `/bamboo`."""
    prefix: str = scope.get(PREFIX, "")
    return prefix


class PathPrefix:
    """Find the prefix of requests, and take it from their paths."""

    def __init__(self, settings: Settings) -> None:
        self._root_path = settings.root_path
        self._trusted = tuple(ip_network(each) for each in settings.trusted_proxies)
        self._is_set = bool(self._root_path or self._trusted)

    def stripped(self, scope: Scope) -> tuple[Scope, EdgeError | None]:
        """Return a request's scope with its prefix apart, and why the request is refused, if it is.

        The prefix is taken from the path at most once, at the end of a segment; a path without it
        is left as it is. The given scope stays what the server or the mounting program made of it.
        """
        if not (self._is_set or scope.get("root_path")):
            return scope, None
        refusal, outer = None, self._root_path
        if self._trusted:
            try:
                forwarded = self._forwarded(scope)
                outer = outer if forwarded is None else forwarded
            except ValueError as error:
                refusal = EdgeError("malformed", f"X-Forwarded-Prefix: {error}.")
        inner: str = scope.get("root_path", "").rstrip("/")
        if not inner:
            prefix, candidates = outer, [outer]
        else:
            is_whole = inner == outer or inner.startswith(f"{outer}/")
            prefix = _in_urls(inner) if is_whole else outer + _in_urls(inner)
            # A program's own proxy may have stripped the part that the program was told of.
            mounted_at = inner.removeprefix(scope.get("app_root_path", "").rstrip("/"))
            candidates = [inner, mounted_at] if is_whole else [outer + inner, inner, mounted_at]
        if not prefix:  # nobody has named one: neither a setting nor a header
            return scope, refusal
        scope = {**scope, "root_path": "", PREFIX: prefix}
        scope.pop("route", None)  # the mounting program's, which no log and metric means
        for candidate in candidates:
            if candidate and (found := _without(scope["path"], scope["raw_path"], candidate)):
                scope["path"], scope["raw_path"] = found
                break
        return scope, refusal

    def _forwarded(self, scope: Scope) -> str | None:
        """Return the prefix that a trusted proxy names; None without one.

        Raises:
            ValueError: The proxy names something else than one prefix.
        """
        values = [value for name, value in scope["headers"] if name == _HEADER]
        client = scope.get("client")
        if not values or client is None or not _is_in(client[0], self._trusted):
            return None
        if len(values) > 1:
            raise ValueError("there is more than one")
        text = values[0].decode("latin-1").strip()
        if text in {"", "/"}:  # it says nothing, or that it serves the gateway at its root
            return text.removesuffix("/") if text else None
        return check_prefix(text.removesuffix("/"))


def put_back(scope: Scope) -> None:
    """Give a scope ASGI's own form of the prefix, for the routes of another framework."""
    prefix: str = scope.pop(PREFIX, "")
    if prefix:
        scope["root_path"] = scope["app_root_path"] = unquote(prefix)
        scope["path"] = unquote(prefix) + scope["path"]
        scope["raw_path"] = prefix.encode("ascii") + scope["raw_path"]


def _without(path: str, raw_path: bytes, prefix: str) -> tuple[str, bytes] | None:
    """Return a path without a prefix, decoded and as it was sent; None when it does not have it.

    `raw_path` decides where segments end: a client that writes a slash as `%2F` writes no segment.
    """
    if not path.startswith(prefix):
        return None
    _, *segments = raw_path.split(b"/", prefix.count("/") + 1)
    wanted = prefix.split("/")[1:]
    if [unquote(segment) for segment in segments[: len(wanted)]] != wanted:
        return None
    rest = b"/" + b"".join(segments[len(wanted) :])
    return path[len(prefix) :] or "/", rest


def _in_urls(path: str) -> str:
    """Return a decoded path as URLs have it, within this host: a client may have chosen a part."""
    return "/" + quote(path.lstrip("/"), safe="/")


@lru_cache(maxsize=64)
def _is_in(host: str, networks: tuple[IPv4Network | IPv6Network, ...]) -> bool:
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return False  # a Unix socket, or a test without a server
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return any((mapped or address) in network for network in networks)
