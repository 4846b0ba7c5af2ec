r"""Reads lines and server-sent events from bytes, wherever those are cut.

Written by hand because the usual ways lose data: `httpx`'s line decoder also breaks lines at U+2028
and its like, which JSON may hold unescaped, and `httpx-sse` drops the last event when no blank line
follows it and has no bound. The rules are those of the HTML standard, section 9.2.6 ("Interpreting
an event stream"), with one deliberate difference: an event at the stream's end counts without its
blank line, since several model servers leave that out.

Lines are split as bytes: CR and LF never occur inside a UTF-8 sequence.
"""

import re
from typing import NamedTuple

_LINE_END = re.compile(rb"\r\n|\r|\n")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class LineTooLongError(ValueError):
    """A line, or an event's data, is over the reader's bound."""


class LineReader:
    r"""Splits bytes into lines at CRLF, CR or LF, without their ends.

    Args:
        line_bytes_max: A longer line raises `LineTooLongError` instead of growing in memory.
    """

    def __init__(self, line_bytes_max: int) -> None:
        self._max = line_bytes_max
        self._partial = bytearray()
        self._after_cr = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """Gives the lines that `chunk` completes.

        Raises:
            LineTooLongError: A line is over the bound; the reader is of no further use.
        """
        # A CR ends its line at once, so that nothing waits for the LF that may never come.
        if not chunk:
            return []
        ends_cr = chunk.endswith(b"\r")
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
        self._after_cr = ends_cr
        first, *rest = _LINE_END.split(chunk)
        self._partial += first
        if len(self._partial) > self._max:
            raise LineTooLongError
        if not rest:
            return []
        lines = [bytes(self._partial), *rest[:-1]]
        self._partial = bytearray(rest[-1])
        if len(self._partial) > self._max or max(map(len, lines)) > self._max:
            raise LineTooLongError
        return lines

    def flush(self) -> list[bytes]:
        """Gives the last line, when the bytes ended without its end."""
        line, self._partial = bytes(self._partial), bytearray()
        return [line] if line else []


class ServerSentEvent(NamedTuple):
    """One event; `event` is empty where the stream names no type."""

    event: str
    data: str


class SseReader:
    """Turns bytes into server-sent events.

    `id` and `retry` are for clients that reconnect, which nothing here does, so they are passed
    over, like comments and unknown fields.

    Args:
        event_bytes_max: Bounds one line, and the data of one event.
    """

    def __init__(self, event_bytes_max: int) -> None:
        self._lines = LineReader(event_bytes_max)
        self._max = event_bytes_max
        self._at_start = True
        self._event = ""
        self._data: list[bytes] = []
        self._data_bytes = 0

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """Gives the events that `chunk` completes.

        Raises:
            LineTooLongError: A line or event is over the bound; the reader is of no further use.
        """
        return self._read(self._lines.feed(chunk))

    def flush(self) -> list[ServerSentEvent]:
        """Gives the last event, when the stream ended without its blank line.

        Raises:
            LineTooLongError: As `feed`.
        """
        return self._read([*self._lines.flush(), b""])

    def _read(self, lines: list[bytes]) -> list[ServerSentEvent]:
        events: list[ServerSentEvent] = []
        for line in lines:
            if self._at_start:
                self._at_start = False
                self._field(line.removeprefix(_BYTE_ORDER_MARK), events)
            else:
                self._field(line, events)
        return events

    def _field(self, line: bytes, events: list[ServerSentEvent]) -> None:
        if not line:
            if self._data:
                # Broken UTF-8 becomes U+FFFD, as the standard says; it must not end the stream.
                data = b"\n".join(self._data).decode(errors="replace")
                events.append(ServerSentEvent(self._event, data))
            self._event, self._data, self._data_bytes = "", [], 0
            return
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data_bytes += len(value) + 1
            if self._data_bytes > self._max + 1:
                raise LineTooLongError
            self._data.append(value)
        elif name == b"event":
            self._event = value.decode(errors="replace")
