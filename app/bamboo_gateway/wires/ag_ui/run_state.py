"""What the frames of a run depend on: a value, so that readers can share what was made of it."""

from typing import Literal, NamedTuple


class Part(NamedTuple):
    """The message that is being made, and the part of it that was shown last.

    Attributes:
        message_id: Its id.
        kind: What the last piece was: `token` or `thinking`; empty while only calls were shown.
        number: The number of the part that it belongs to.
        text_is_open: Whether TEXT_MESSAGE_START was sent.
        reasoning_is_open: Whether the part is reasoning that has begun and not ended.
        calls: The calls of the message that were shown.
        stem: What the event of a further piece of the part has before its text.
        begin: What its frame has there.
    """

    message_id: str
    kind: str = ""
    number: int = -1
    text_is_open: bool = False
    reasoning_is_open: bool = False
    calls: tuple[str, ...] = ()
    stem: bytes = b""
    begin: bytes = b""


class Unsettled(NamedTuple):
    """A message that was shown and has not come whole, with `size` and `digest` of a `Place`."""

    part: Part
    size: int
    digest: int


class Closing(NamedTuple):
    """A result that the gateway gave a call before the run, because nobody else did."""

    message_id: str
    call_id: str
    words: str


class RunState(NamedTuple):
    """Where a stream of one run is.

    Attributes:
        run_id: The run; None: the next one that begins.
        shows_earlier: Whether the earlier messages follow RUN_STARTED.
        is_over: Whether the run has ended before: its pieces may have left the log, so its calls
            are shown with their message, behind what was said before them.
        has_begun: Whether RUN_STARTED was sent.
        has_ended: Whether the terminal event was sent.
        waits_for: Which messages have to be shown before the stream goes on: the earlier ones, or
            all, because pieces have said something else than their message.
        rest: The lines that wait for that.
        input_ids: The run's input.
        closings: What is shown behind RUN_STARTED otherwise.
        part: The message that is being made.
        unsettled: Other messages that were shown and have not come whole: they wait for results.
        open_calls: The calls that were shown, or that an earlier run has made, without a result.
        results: The calls whose results were shown, and whose messages have not come yet.
        interrupts: What the run has asked, encoded.
        steps: The steps that have begun and not ended.
        model: The model that answers.
        is_stale: Whether a message differs from the pieces that were shown of it.
    """

    run_id: str | None
    shows_earlier: bool = False
    is_over: bool = False
    has_begun: bool = False
    has_ended: bool = False
    waits_for: Literal["earlier", "all"] | None = None
    rest: bytes = b""
    input_ids: tuple[str, ...] = ()
    closings: tuple[Closing, ...] = ()
    part: Part | None = None
    unsettled: tuple[Unsettled, ...] = ()
    open_calls: tuple[str, ...] = ()
    results: tuple[str, ...] = ()
    interrupts: tuple[bytes, ...] = ()
    steps: tuple[str, ...] = ()
    model: str | None = None
    is_stale: bool = False


class Place(NamedTuple):
    """Where a stream is, with what changes at each piece of text apart from the rest.

    Attributes:
        state: What changes seldom.
        size: How much of the present part was shown, in bytes of its encoded text.
        digest: A checksum of everything that was shown of the message.
    """

    state: RunState
    size: int = 0
    digest: int = 0
