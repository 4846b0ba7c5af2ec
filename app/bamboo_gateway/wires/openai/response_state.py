"""What was shown of a response: a value, so that readers can share what was made of it."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from bamboo_gateway.wires.places import Place, Texts

FRAMES_PER_EVENT: Final = 10_000
"""The numbers that one event has. The last one is given to all frames beyond: only a message with
thousands of parts has so many, and `response.completed` has all of it again."""


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
            texts = (texts, text[1:-1])
            number = (seq - self.first) * FRAMES_PER_EVENT
            if number > after:
                out.append(b"%b%d%b%b}\n\n" % (before, number, behind, text))
            at = end + 1
        return at, texts, number


class RunState(NamedTuple):
    """What changes seldom. Its dictionaries are never changed.

    Attributes:
        boundary: The number of the last event before which no later message has begun.
        indexes: The place in the output of each item.
        messages: The messages that are being made.
        calls: The calls that were shown.
        hot: The part that the next delta probably continues.
        end_seq: The seq of the run's terminal event, which waits for the response.
        has_ended: Whether the last frame was made.
    """

    boundary: int = -1
    indexes: Mapping[str, int] = {}
    messages: Mapping[str, Making] = {}
    calls: Mapping[str, ShownCall] = {}
    hot: Hot | None = None
    end_seq: int | None = None
    has_ended: bool = False


ResponsePlace = Place[RunState]
