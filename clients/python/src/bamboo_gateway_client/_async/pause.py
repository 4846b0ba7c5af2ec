"""How the asynchronous client waits."""

from pathlib import Path

import anyio


async def pause(seconds: float) -> None:
    """Wait; other tasks go on, in asyncio and in trio."""
    await anyio.sleep(seconds)


async def read(path: Path) -> bytes:
    """Return the content of a file of this machine."""
    return await anyio.Path(path).read_bytes()
