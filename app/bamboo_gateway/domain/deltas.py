"""Deltas on their way into the log, encoded piece by piece.

Most events are deltas, and those of one text differ only in their seq, time and text. So what they
share is encoded once (`DeltaStem`), and each text once (`Delta`). Encoded texts can be joined.
"""

from typing import NamedTuple

from bamboo_gateway.domain.codec import encode
from bamboo_gateway.domain.errors import InvalidEvent
from bamboo_gateway.domain.events import Draft


class DeltaStem:
    """What the deltas of one text share: one part of one message, or one tool call.

    Args:
        type: The type of the deltas.
        fields: Their fields, in order, before `content`.
    """

    __slots__ = ("_end", "_fields", "_start", "type")

    def __init__(self, type: str, fields: dict[str, str]) -> None:  # noqa: A002  as in `Draft`
        self.type = type
        self._fields = fields
        self._start = encode({"type": type, "seq": 0})[:-2]
        self._end = encode({**fields, "content": ""})[1:-2]

    def body(self, seq: int, time: str, text: bytes) -> bytes:
        """Return the body of an event with this encoded text: the bytes that `encode` would make.

        The body ends with the text and `DELTA_END`.
        """
        return b'%b%d,"time":"%b",%b%b"}' % (self._start, seq, time.encode(), self._end, text)

    def draft(self, content: str) -> Draft:
        """Return a delta as a draft like any other."""
        return Draft(self.type, {**self._fields, "content": content})


DELTA_END = b'"}'
"""The end of a delta's body, behind its text."""


class Delta(NamedTuple):
    """A delta that has no seq yet. Deltas with the same stem continue each other's text.

    Attributes:
        stem: What it shares with others.
        text: Its text as `encoded_text` makes it.
    """

    stem: DeltaStem
    text: bytes


def encoded_text(kind: str, text: str) -> bytes:
    """Return a text as JSON, without the quotation marks.

    Raises:
        InvalidEvent: It is no text, or has lone surrogates.
    """
    if not isinstance(text, str):
        raise InvalidEvent(f"The event {kind!r} has content that is no text.")
    try:
        return encode(text)[1:-1]
    except TypeError as error:
        raise InvalidEvent(f"The event {kind!r} cannot be written as JSON.") from error


def joined(body: bytes, texts: list[bytes]) -> bytes:
    """Return the body of a delta with further texts behind its own."""
    return b"%b%b%b" % (body[: -len(DELTA_END)], b"".join(texts), DELTA_END)
