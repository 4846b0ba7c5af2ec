"""A parser of `text/event-stream`, over bytes as they arrive.

It follows the HTML standard (section 9.2.6, "Interpreting an event stream"): lines end with LF, CR
LF or CR and with nothing else. Ready-made line splitters also split at U+2028 or U+0085, which
JSON may hold unescaped, and so tear events apart.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

# An event may be as large as `max_event_bytes` allows, 1 MiB unless raised; far above that the
# other side is no gateway, and its endless line must not fill this machine's memory.
LINE_BYTES_MAX = 64 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"
_LINE_END = re.compile(rb"\r\n|\r|\n")


class Frame(NamedTuple):
    """One event of a stream.

    Attributes:
        id: The last id the stream has given, with this frame or before; None before the first.
        data: The data lines, joined by newlines.
    """

    id: str | None
    data: str


class FrameParser:
    """Turns chunks of bytes, cut anywhere, into frames.

    Attributes:
        last_id: What `Last-Event-ID` says when the client comes back.
        retry_ms: How long the server asks a client to wait before it comes back.
    """

    def __init__(self, last_id: str | None = None) -> None:
        self.last_id = last_id
        self.retry_ms: int | None = None
        self._rest = bytearray()
        self._begun = False
        self._after_cr = False
        self._id = last_id
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> Iterator[Frame]:
        """Gives the frames that `chunk` completes.

        Raises:
            ValueError: A line is longer than `LINE_BYTES_MAX`.
        """
        for line in self._lines(chunk):
            if line:
                self._field(line)
                continue
            # A blank line ends the frame. One without data only moves the id.
            self.last_id = self._id
            data, self._data = self._data, []
            if data:
                yield Frame(self.last_id, "\n".join(data))

    def _lines(self, chunk: bytes) -> Iterator[bytes]:
        if self._after_cr and chunk:
            # The CR that ended the last chunk ended its line; a LF now belongs to it.
            self._after_cr = False
            if chunk[0] == 0x0A:
                chunk = chunk[1:]
        searched = len(self._rest)
        self._rest += chunk
        if not self._begun:
            if len(self._rest) < len(_BOM) and _BOM.startswith(self._rest):
                return
            self._begun = True
            if self._rest.startswith(_BOM):
                del self._rest[: len(_BOM)]
            searched = 0
        start = 0
        while found := _LINE_END.search(self._rest, max(start, searched)):
            line = bytes(self._rest[start : found.start()])
            start = found.end()
            self._after_cr = start == len(self._rest) and self._rest[-1] == 0x0D
            yield line
        del self._rest[:start]
        if len(self._rest) > LINE_BYTES_MAX:
            raise ValueError("a line of the stream is too long")

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        match name:
            case b"data":
                self._data.append(value.decode("utf-8", "replace"))
            case b"id" if b"\0" not in value:
                self._id = value.decode("utf-8", "replace")
            case b"retry" if value.isdigit():
                self.retry_ms = int(value)
            case _:
                pass  # a comment (its name is empty), `event`, or a field nobody knows
