"""Which addresses of images may be passed on to a model server, which would fetch them.

The gateway itself fetches nothing that a message names. A model server inside one's own network
does, with that network's reach: a user could have it read `http://169.254.169.254/…` or a file.
"""

import re
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator

ANYWHERE: Final = "*"

_PLAIN: Final = re.compile(r"[!-\[\]-~]+")
"""Visible ASCII without the backslash: what else there may be, parsers read differently."""
_ORIGIN: Final = re.compile(r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:[0-9]{1,5})?")


def _are_origins(text: str) -> str:
    for origin in text.split(","):
        if origin not in {"", ANYWHERE} and _ORIGIN.fullmatch(origin) is None:
            raise ValueError("not origins like https://images.example, separated by commas, or *")
    return text


MediaOrigins = Annotated[str, AfterValidator(_are_origins)]
"""Origins separated by commas; `*`: any; empty: none."""


def may_lead_to(url: str, origins: str) -> bool:
    """Tells whether an address may be passed on.

    Args:
        url: The address, from a message. `data:` leads nowhere, so it always may.
        origins: See `MediaOrigins`.
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
