"""Decide which image URLs may be passed to a model server, which would fetch them.

The gateway fetches nothing that a message names. A model server does, from inside the operator's
network: a user could make it read `http://169.254.169.254/…` or a file.
"""

import re
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator

ANYWHERE: Final = "*"

_PLAIN: Final = re.compile(r"[!-\[\]-~]+")
"""Visible ASCII without the backslash. Parsers disagree about URLs with other characters."""
_ORIGIN: Final = re.compile(r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:[0-9]{1,5})?")


def _are_origins(text: str) -> str:
    for origin in text.split(","):
        if origin not in {"", ANYWHERE} and _ORIGIN.fullmatch(origin) is None:
            raise ValueError("not origins like https://images.example, separated by commas, or *")
    return text


MediaOrigins = Annotated[str, AfterValidator(_are_origins)]
"""Origins, separated by commas. `*` allows any, an empty text none."""


def may_lead_to(url: str, origins: str) -> bool:
    """Return whether a URL may be passed to a model server.

    Args:
        url: The URL of a message. `data:` URLs are allowed, because nothing is fetched for them.
        origins: The allowed origins, as in `MediaOrigins`.
    """
    if _PLAIN.fullmatch(url) is None:
        return False
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    if parts.scheme == "data":
        return True
    if parts.scheme not in {"http", "https"} or not host:
        return False
    allowed = origins.lower().split(",")
    return ANYWHERE in allowed or f"{parts.scheme}://{parts.netloc.lower()}" in allowed
