"""Where a stream of a response is: a value, so that readers can share what was made of it."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from typing_extensions import override

from bamboo_gateway.domain.codec import decode

FRAMES_PER_EVENT: Final = 10_000
"""The numbers that one event has. The last one is given to all frames beyond: only a message with
thousands of parts has so many, and `response.completed` has all of it again."""

Texts = tuple[Any, bytes] | None
"""The JSON of deltas, with quotation marks: the last one behind all before it. So a state with one
more costs nothing, whatever it has already."""


def text_of(texts: Texts) -> str:
    """Return the text of deltas."""
    found: list[str] = []
    while texts is not None:
        texts, text = texts
        found.append(decode(text))
    return "".join(reversed(found))


class Part(NamedTuple):
    """A text or a reasoning whose deltas arrive."""

    kind: str
    item_id: str
    output_index: int
    texts: Texts = None


class Making(NamedTuple):
    """What was shown of a message that is being made."""

    places: int = 0
    calls: int = 0
    open: Part | None = None


class ShownCall(NamedTuple):
    """A tool call that was shown; `request` is the item of the approval that it needs."""

    item_id: str
    output_index: int
    call: Mapping[str, Any]
    is_client: bool
    is_done: bool = False
    request: str | None = None


class Hot(NamedTuple):
    """The part that the next delta probably continues.

    Attributes:
        message_id: Its message.
        first: The seq just before the run's first event.
        begin: What the line of a delta has before its seq.
        stem: What it has before its text. No text can hold it: its quotation marks are escaped.
        before: What the frame has before its number.
        behind: What it has between its number and the text.
    """

    message_id: str
    first: int
    begin: bytes
    stem: bytes
    before: bytes
    behind: bytes

    def take(
        self, lines: bytes, at: int, texts: Texts, number: int, after: int, out: list[bytes]
    ) -> tuple[int, Texts, int]:
        """Add the frames of the deltas that continue the part; most lines are such.

        Returns:
            Where the other lines begin, the part's texts, and the last number.
        """
        begin, stem, before, behind = self.begin, self.stem, self.before, self.behind
        while lines.startswith(begin, at):
            end = lines.index(b"\n", at)
            text_at = lines.find(stem, at, end)
            if text_at < 0:
                break
            at += len(begin)
            seq = int(lines[at : lines.index(b",", at)])
            text = lines[text_at + len(stem) : end - 1]
            texts = (texts, text)
            number = (seq - self.first) * FRAMES_PER_EVENT
            if number > after:
                out.append(b"%b%d%b%b}\n\n" % (before, number, behind, text))
            at = end + 1
        return at, texts, number


class RunState(NamedTuple):
    """What changes seldom. Its dictionaries are never changed.

    Attributes:
        after: Frames up to this number are left out; -1: none.
        boundary: The number of the last event before which no later message has begun.
        indexes: The place in the output of each item.
        messages: The messages that are being made.
        calls: The calls that were shown.
        hot: The part that the next delta probably continues.
        rest: The run's terminal event, which waits for the response.
        has_ended: Whether the last frame was made.
    """

    after: int = -1
    boundary: int = -1
    indexes: Mapping[str, int] = {}
    messages: Mapping[str, Making] = {}
    calls: Mapping[str, ShownCall] = {}
    hot: Hot | None = None
    rest: bytes = b""
    has_ended: bool = False


class Place:
    """Where a stream is. What was made of the same lines, for readers of the same, is equal.

    Attributes:
        run: What changes seldom.
        number: The number of the last frame, also of one that was left out.
        texts: The deltas of the hot part.
        size: How many bytes of lines were taken.
        digest: Their checksum.
    """

    __slots__ = ("digest", "number", "run", "size", "texts")

    def __init__(
        self, run: RunState, number: int = -1, texts: Texts = None, size: int = 0, digest: int = 0
    ) -> None:
        self.run = run
        self.number = number
        self.texts = texts
        self.size = size
        self.digest = digest

    @override
    def __hash__(self) -> int:
        return hash((self.size, self.digest))

    @override
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Place) and self._taken == other._taken

    @property
    def _taken(self) -> tuple[object, ...]:
        run = self.run
        return self.size, self.digest, run.after, run.rest, run.has_ended
