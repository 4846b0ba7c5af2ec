"""The URL of the bus, as `bus_url` names it."""

from typing import Final
from urllib.parse import urlsplit

_FORM: Final = "write `redis://host:6379/0`, or `rediss://host:6379/0` for TLS"


def check_bus_url(text: str) -> None:
    """Check that a text is the URL of a Redis.

    Its path is the number of a database. Its query has options of redis-py, such as
    `ssl_ca_certs=/etc/ssl/redis.pem`.

    Raises:
        ValueError: It is none; the message repeats no part of it that could be a password.
    """
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        raise ValueError(_FORM) from None  # its text may repeat a part of the password
    if parts.scheme not in {"redis", "rediss"} or not parts.hostname or parts.fragment:
        raise ValueError(_FORM)
    database = parts.path.removeprefix("/")
    if database and not (database.isascii() and database.isdigit()):
        raise ValueError(f"the path is the number of a database; {_FORM}")


def shown_bus_url(text: str) -> str:
    """Return the URL without its user, its password and its options."""
    parts = urlsplit(text)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
