"""A zip that is streamed while it is written."""

import io
from typing import Any

from typing_extensions import override


class ZipBuffer(io.RawIOBase):
    """A file that a zip is written to and taken from. It has no `seek`, so the zip is streamed."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    @override
    def writable(self) -> bool:
        return True

    @override
    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        """Return what was written since the last call."""
        parts, self._parts = self._parts, []
        return b"".join(parts)
