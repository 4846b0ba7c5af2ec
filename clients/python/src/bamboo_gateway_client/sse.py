r"""Read server-sent events from bytes, wherever those are cut.

It is own code, because the libraries lose data: httpx's line decoder also breaks lines at U+2028
and its like, which JSON may hold unescaped, and httpx-sse's buffer has no bound.

The rules are those of the HTML standard, section 9.2.6. An event that the end of a stream cuts off
is dropped: it comes again after a reconnect, whole.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_LINE_END = re.compile(rb"\r\n|\r|\n")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
EVENT_BYTES_MAX = 64 * 1024 * 1024
"""The gateway's events have 1 MiB at most, unless it is raised there. Far above that the other side
is no gateway, and its endless line must not fill this machine's memory."""


class EventTooLongError(ValueError):
    """A line, or the data of an event, is over the reader's bound."""

    def __init__(self) -> None:
        super().__init__("a line of the stream is too long")


class Frame(NamedTuple):
    """One event of a stream.

    Attributes:
        data: Its data lines, joined by newlines.
        id: The last id that the stream has given, with this event or before.
    """

    data: str
    id: str | None


class SseReader:
    """Turns bytes into the events of a stream.

    Args:
        last_event_id: The id with which the stream was opened.
        event_bytes_max: The bound of one line, and of the data of one event.

    Attributes:
        retry_ms: How long the server asks a client to wait before it reconnects, if it does.
    """

    def __init__(
        self, last_event_id: str | None = None, event_bytes_max: int = EVENT_BYTES_MAX
    ) -> None:
        self.retry_ms: int | None = None
        self._max = event_bytes_max
        self._partial = bytearray()
        self._after_cr = False
        self._at_start = True
        self._id = last_event_id
        self._data: list[bytes] = []
        self._data_bytes = 0

    def feed(self, chunk: bytes) -> list[Frame]:
        """Return the events that `chunk` completes.

        Raises:
            EventTooLongError: The reader is of no further use.
        """
        frames: list[Frame] = []
        for line in self._lines(chunk):
            text = line
            if self._at_start:
                self._at_start = False
                text = line.removeprefix(_BYTE_ORDER_MARK)
            if not text:
                self._end_event(frames)
            else:
                self._field(text)
        return frames

    def _lines(self, chunk: bytes) -> list[bytes]:
        # A CR ends its line at once, so that nothing waits for an LF that may never come.
        if not chunk:
            return []
        ends_cr = chunk.endswith(b"\r")
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
        self._after_cr = ends_cr
        first, *rest = _LINE_END.split(chunk)
        self._partial += first
        if len(self._partial) > self._max:
            raise EventTooLongError
        if not rest:
            return []
        lines = [bytes(self._partial), *rest[:-1]]
        self._partial = bytearray(rest[-1])
        if max(len(self._partial), *map(len, lines)) > self._max:
            raise EventTooLongError
        return lines

    def _end_event(self, frames: list[Frame]) -> None:
        if self._data:
            # Broken UTF-8 becomes U+FFFD, as the standard says; it must not end the stream.
            frames.append(Frame(b"\n".join(self._data).decode(errors="replace"), self._id))
        self._data, self._data_bytes = [], 0

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        match name:
            case b"data":
                self._data_bytes += len(value) + 1
                if self._data_bytes > self._max + 1:
                    raise EventTooLongError
                self._data.append(value)
            case b"id" if b"\0" not in value:
                self._id = value.decode(errors="replace")
            case b"retry" if value.isdigit():
                self.retry_ms = int(value)
            case _:
                pass  # a comment, or a field that the gateway does not send
