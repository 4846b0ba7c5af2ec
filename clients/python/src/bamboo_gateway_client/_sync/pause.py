"""How the synchronous client waits."""

import time
from pathlib import Path


def pause(seconds: float) -> None:
    """Wait; the thread stands still."""
    time.sleep(seconds)


def read(path: Path) -> bytes:
    """Return the content of a file of this machine."""
    return path.read_bytes()
