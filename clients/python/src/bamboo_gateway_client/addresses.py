"""The gateway's address, and which way leads there."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from ssl import SSLContext

API = "/api/v1"
# What the gateway takes as a picture; others, such as drawings in SVG, are files.
PICTURES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp", "image/avif"})


def checked_url(url: str) -> str:
    """Return the address of a gateway without a slash at its end.

    Raises:
        ValueError: It is no address of a gateway.
    """
    bare = url.rstrip("/")
    try:
        address = httpx.URL(bare)
    except httpx.InvalidURL as error:
        raise ValueError(f"{url}: {error}") from error
    if address.scheme not in {"http", "https"} or not address.host:
        raise ValueError(f"{url}: an address begins with http:// or https://")
    if "?" in bare or "#" in bare:
        raise ValueError(f"{url}: an address ends with its path")
    return bare


def segment(name: str) -> str:
    """Return an id as a part of a path: whatever it holds, it leads to no other route.

    Raises:
        ValueError: No route has such a part.
    """
    if name in {"", ".", ".."}:
        raise ValueError(f"{name!r} is no id")
    return quote(name, safe="")


def authorization(api_key: str | None) -> dict[str, str]:
    """Return the header that carries a key, without the line end of a file that it was read from.

    Raises:
        ValueError: No key has such characters. The message does not show it.
    """
    key = (api_key or "").strip()
    if any(not "!" <= letter <= "~" for letter in key):
        raise ValueError("The API key has characters that no key has: a space, or no ASCII.")
    return {"Authorization": f"Bearer {key}"} if key else {}


def is_loopback(url: str) -> bool:
    """Return whether the address is this machine: no proxy must be asked for it."""
    host = httpx.URL(url).host
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def trust_of(url: str) -> SSLContext | bool:
    """Return whose certificates count, for `verify` of an HTTP client."""
    if url.startswith("https:"):
        # Whom the environment trusts (SSL_CERT_FILE) holds for every host, this machine included.
        return httpx.create_ssl_context()
    # Reading the certificates of all authorities takes 30 ms. To this machine no TLS is spoken;
    # to others a proxy may speak it.
    return not is_loopback(url)


def given(**values: Any) -> dict[str, Any]:
    """Return the values that are not None: what a request says."""
    return {name: value for name, value in values.items() if value is not None}


def body_of_message(
    message: str | Mapping[str, Any] | Sequence[Mapping[str, Any]], files: Sequence[Any] = ()
) -> Any:
    """Return the `message` of a chat: as it was given, or with these files behind its text.

    Args:
        message: Text, a message, or a list of messages.
        files: Files that were uploaded: what the upload answered, or their ids.

    Raises:
        TypeError: Files go with a text only.
    """
    if not files:
        return message
    if not isinstance(message, str):
        raise TypeError("files go with a text; put `file_id` parts into the message yourself")
    parts: list[dict[str, Any]] = [{"type": "text", "text": message}] if message else []
    for file in files:
        file_id = file if isinstance(file, str) else file["file_id"]
        media_type = "" if isinstance(file, str) else file["media_type"]
        kind = "image" if media_type in PICTURES else "file"
        parts.append({"type": kind, "file_id": file_id})
    return {"role": "user", "content": parts}
