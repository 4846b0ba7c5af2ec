"""HTTP clients of gateways on this machine."""

import ssl
from typing import Any

import httpx

# Reading the certificates of all authorities takes 30 ms, and tests make thousands of clients that
# never use TLS: this context trusts none.
_NO_AUTHORITIES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def local_client(**options: Any) -> httpx.Client:
    """Return a client that ignores this machine's proxies and cannot use TLS."""
    return httpx.Client(trust_env=False, verify=_NO_AUTHORITIES, **options)


def local_request(method: str, url: str, **options: Any) -> httpx.Response:
    """Send a request through a new client, and so through a new connection."""
    return httpx.request(method, url, trust_env=False, verify=_NO_AUTHORITIES, **options)
