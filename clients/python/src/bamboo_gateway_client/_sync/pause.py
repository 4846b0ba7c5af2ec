"""How the synchronous client waits."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import httpx


def pause(seconds: float) -> None:
    """Wait; the thread stands still."""
    time.sleep(seconds)


def hang_up(response: httpx.Response) -> None:
    """Close an answer that another thread may be reading."""
    network = response.extensions.get("network_stream")
    connection = network.get_extra_info("socket") if network is not None else None
    if isinstance(connection, socket.socket):
        # Closing a socket does not wake a thread that waits for its bytes; this does. The method is
        # the plain socket's: that of TLS would take the session away from the reader.
        with contextlib.suppress(OSError):
            socket.socket.shutdown(connection, socket.SHUT_RDWR)
    response.close()


def read(path: Path) -> bytes:
    """Return the content of a file of this machine."""
    return path.read_bytes()
