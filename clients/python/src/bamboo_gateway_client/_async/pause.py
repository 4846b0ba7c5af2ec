"""How the asynchronous client waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from pathlib import Path

    import httpx


async def pause(seconds: float) -> None:
    """Wait; other tasks go on, in asyncio and in trio."""
    await anyio.sleep(seconds)


async def hang_up(response: httpx.Response) -> None:
    """Close an answer that another task may be reading."""
    await response.aclose()


async def read(path: Path) -> bytes:
    """Return the content of a file of this machine."""
    return await anyio.Path(path).read_bytes()
