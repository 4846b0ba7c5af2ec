r"""Read lines and server-sent events from bytes, wherever those are cut.

Agents read model servers and HTTP agents with it. It is own code, because the libraries lose data.
`httpx`'s line decoder also breaks lines at U+2028 and its like, which JSON may hold unescaped.
`httpx-sse` (0.4) drops the last event when no blank line follows it, and its buffer has no bound:
an endless line fills the memory.

The rules are those of the HTML standard, section 9.2.6 ("Interpreting an event stream"). `flush` is
the one deliberate difference: an event at the stream's end counts without its blank line, since
several model servers leave that out. A client that resumes does not call it: an event that was cut
off must come again.

Lines are split as bytes: CR and LF never occur inside a UTF-8 sequence.
"""

import re
from typing import NamedTuple

_LINE_END = re.compile(rb"\r\n|\r|\n")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class LineTooLongError(ValueError):
    """A line, or an event's data, is over the reader's bound."""

    def __init__(self) -> None:
        super().__init__("a line of the stream is too long")


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
        """Return the lines that `chunk` completes.

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

    @property
    def is_between_lines(self) -> bool:
        """Whether the next byte begins a line, whatever it is."""
        return not self._partial and not self._after_cr

    def flush(self) -> list[bytes]:
        """Return the last line, when the bytes ended without its end."""
        line, self._partial = bytes(self._partial), bytearray()
        return [line] if line else []


class ServerSentEvent(NamedTuple):
    """One event.

    Attributes:
        event: Its type; empty where the stream names none.
        data: Its data lines, joined by newlines.
        id: The last id that the stream has given, with this event or before; None before the first.
    """

    event: str
    data: str
    id: str | None = None


class SseReader:
    """Turns bytes into server-sent events.

    Args:
        event_bytes_max: The bound of one line, and of the data of one event.
        last_event_id: The id to start from, when a stream is opened again.

    Attributes:
        last_event_id: The value of `Last-Event-ID` when a client opens the stream again.
        retry_ms: How long the server asks a client to wait before that; None until it does.
    """

    def __init__(self, event_bytes_max: int, last_event_id: str | None = None) -> None:
        self.last_event_id = last_event_id
        self.retry_ms: int | None = None
        self._lines = LineReader(event_bytes_max)
        self._max = event_bytes_max
        self._at_start = True
        self._after_blank = True
        self._event = ""
        self._id = last_event_id
        self._data: list[bytes] = []
        self._data_bytes = 0

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """Return the events that `chunk` completes.

        Raises:
            LineTooLongError: A line or event is over the bound; the reader is of no further use.
        """
        return self._read(self._lines.feed(chunk))

    def flush(self) -> list[ServerSentEvent]:
        """Return the last event, when the stream ended without its blank line.

        Raises:
            LineTooLongError: As `feed`.
        """
        return self._read([*self._lines.flush(), b""])

    def feed_data(self, chunk: bytes) -> list[bytes]:
        """Return only the data of the events that `chunk` completes, in UTF-8.

        A model server sends an event of one line for each token, and most chunks are such events
        and nothing else. Those are split in one step, at a sixth of the CPU.

        Raises:
            LineTooLongError: As `feed`.
        """
        return self._plain(chunk) or [event.data.encode() for event in self.feed(chunk)]

    def flush_data(self) -> list[bytes]:
        """Return only the data of the last event; as `flush`."""
        return [event.data.encode() for event in self.flush()]

    def _plain(self, chunk: bytes) -> list[bytes] | None:
        """Split whole events that have one line of data and no other line; None for all else."""
        if not (self._after_blank and self._lines.is_between_lines and len(chunk) <= self._max):
            return None
        if b"\r" in chunk:
            if not chunk.count(b"\r\n") == chunk.count(b"\r") == chunk.count(b"\n"):
                return None
            chunk = chunk.replace(b"\r\n", b"\n")
        if not (chunk.startswith(b"data: ") and chunk.endswith(b"\n\n")):
            return None
        texts = chunk[6:-2].split(b"\n\ndata: ")
        if chunk.count(b"\n") != 2 * len(texts) or not _is_utf8(chunk):
            return None
        self._at_start = False
        return texts

    def _read(self, lines: list[bytes]) -> list[ServerSentEvent]:
        events: list[ServerSentEvent] = []
        for line in lines:
            if self._at_start:
                self._at_start = False
                self._field(line.removeprefix(_BYTE_ORDER_MARK), events)
            else:
                self._field(line, events)
        if lines:
            self._after_blank = not lines[-1]
        return events

    def _field(self, line: bytes, events: list[ServerSentEvent]) -> None:
        if not line:
            # A blank line ends the event. One without data only moves the id.
            self.last_event_id = self._id
            if self._data:
                # Broken UTF-8 becomes U+FFFD, as the standard says; it must not end the stream.
                data = b"\n".join(self._data).decode(errors="replace")
                events.append(ServerSentEvent(self._event, data, self._id))
            self._event, self._data, self._data_bytes = "", [], 0
            return
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        match name:
            case b"data":
                self._data_bytes += len(value) + 1
                if self._data_bytes > self._max + 1:
                    raise LineTooLongError
                self._data.append(value)
            case b"event":
                self._event = value.decode(errors="replace")
            case b"id" if b"\0" not in value:
                self._id = value.decode(errors="replace")
            case b"retry" if value.isdigit():
                self.retry_ms = int(value)
            case _:
                pass  # a comment (its name is empty), or a field that the standard does not know


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
