"""Which URLs a webhook may have: the part of the check that needs no look at the network.

Names are looked up when a connection is made, and the addresses are checked then (`webhooks`):
what a name stands for can change between a check and its use.

On the internet a webhook is `https`, at port 443 or at one from 1024 on: below are services of
other protocols (mail, shells, name servers), which a user must not reach through the gateway.
"""

import re
from ipaddress import IPv4Address, ip_address
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import idna

from bamboo_gateway.domain.networks import is_public

URL_CHARS_MAX: Final = 2048
"""The longest URL: what every server and proxy accepts."""

_PORTS: Final = {"http": 80, "https": 443}
_FREE_PORTS: Final = 1024
_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_NAME_CHARS_MAX: Final = 253
_LOCAL_NAMES: Final = ("localhost", "local", "internal", "intranet", "lan", "home", "corp")
"""Last labels of names that lead into a private network, or to the machine itself."""


class UrlRefusedError(ValueError):
    """A URL that a webhook cannot have; the message is for the one who gave it."""


class Target(NamedTuple):
    """The server of a URL; `host` is in ASCII and lower case, without the brackets of IPv6."""

    scheme: str
    host: str
    port: int


def target_of(url: str, *, private: bool) -> Target:
    """Return the server that a webhook's URL names.

    Args:
        url: The URL.
        private: Whether private addresses, names and plain `http` are allowed.

    Raises:
        UrlRefusedError: A webhook cannot have this URL.
    """
    # `urlsplit` leaves out tabs and line ends, and browsers take a backslash for a slash.
    if len(url) > URL_CHARS_MAX or not url.isprintable() or re.search(r"[\s\\#]", url):
        raise UrlRefusedError(
            f"A URL has at most {URL_CHARS_MAX} characters, and no space, backslash or fragment."
        )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise UrlRefusedError("The URL cannot be read.") from error
    if parts.scheme not in _PORTS or (parts.scheme == "http" and not private):
        schemes = "https:// or http://" if private else "https://"
        raise UrlRefusedError(f"The URL of a webhook begins with {schemes}.")
    if "@" in parts.netloc:
        raise UrlRefusedError("The URL has a name or password, which would show up in lists.")
    if port is None:
        port = _PORTS[parts.scheme]
    if port == 0 or not (private or port == _PORTS["https"] or port >= _FREE_PORTS):
        raise UrlRefusedError(f"The port is 443, or one from {_FREE_PORTS} on.")
    return Target(parts.scheme, _checked_host(host, private=private), port)


def _checked_host(host: str, *, private: bool) -> str:
    if ":" in host or "%" in host:
        return _checked_address(host, private=private)
    if not host.isascii():
        try:
            host = idna.encode(host, uts46=True).decode()
        except idna.IDNAError:
            host = ""
    labels = host.split(".")
    if len(host) > _NAME_CHARS_MAX or not all(map(_LABEL.fullmatch, labels)):
        # Also one with a dot at its end: certificates never have it.
        raise UrlRefusedError("The URL has no valid host.")
    if _NUMBER.fullmatch(labels[-1]):
        # Resolvers take 2130706433, 0177.0.0.1 and 127.1 for addresses.
        return _checked_address(host, private=private)
    if not private and (len(labels) == 1 or labels[-1] in _LOCAL_NAMES):
        raise UrlRefusedError("The host is a name of a private network.")
    return host


def _checked_address(host: str, *, private: bool) -> str:
    try:
        address = ip_address(host)
    except ValueError as error:
        raise UrlRefusedError("The URL has no valid host.") from error
    if isinstance(address, IPv4Address) and str(address) != host:
        raise UrlRefusedError("The URL has no valid host.")
    if not private and not is_public(address):
        raise UrlRefusedError("The host is an address of a private network.")
    return str(address)
