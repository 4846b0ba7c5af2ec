"""Request heads that a proxy in front could read differently than the gateway (RFC 9112)."""

import re
from collections.abc import Iterable

Headers = Iterable[tuple[bytes, bytes]]


def find_ambiguity(version: str, target: bytes, headers: Headers) -> str:
    """Return what is ambiguous in a request head, as an error's detail; empty when nothing is.

    RFC 9112, 3.2, 6.1 and 11.2: a missing `Host`, a target whose authority is not the `Host`, a
    fragment, a transfer coding other than `chunked`, and any transfer coding in HTTP/1.0.

    Args:
        version: The HTTP version, like `1.1`.
        target: The request target.
        headers: The headers, with names in lower case.
    """
    headers = list(headers)
    hosts = [value.lower() for name, value in headers if name == b"host"]
    codings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
    if not hosts and version == "1.1":
        return "The request has no Host header."
    if codings and (codings != [b"chunked"] or version != "1.1"):
        return "The only Transfer-Encoding allowed is one `chunked`, in HTTP/1.1."
    if b"#" in target:
        return "The request target has a fragment; a client must not send it."
    if not target.startswith(b"/"):
        # An absolute target's authority is the request's host, whatever the header says.
        _, separator, rest = target.partition(b"://")
        if separator and [re.split(rb"[/?]", rest, maxsplit=1)[0].lower()] != hosts:
            return "The request target names another host than the Host header."
    return ""


def without_upgrade(method: bytes, target: bytes, version: str, headers: Headers) -> bytes:
    """Return the bytes of a request head without its `Upgrade` header."""
    lines = [b"%b: %b\r\n" % header for header in headers if header[0] != b"upgrade"]
    line = b"%b %b HTTP/%b\r\n" % (method, target, version.encode())
    return b"".join([line, *lines, b"\r\n"])
