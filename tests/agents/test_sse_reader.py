"""The reader of event streams, at every place where bytes can be cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bamboo_gateway.agents.sse_reader import (
    LineReader,
    LineTooLongError,
    ServerSentEvent,
    SseReader,
)


def read(data: bytes, *cuts: int) -> list[tuple[str, str]]:
    reader = SseReader(1000)
    events: list[ServerSentEvent] = []
    for begin, end in zip((0, *cuts), (*cuts, len(data)), strict=True):
        events += reader.feed(data[begin:end])
    return [(event.event, event.data) for event in [*events, *reader.flush()]]


SAMPLE = (
    "\ufeffdata: grüße 🎋\n\n: comment\r\n\r\nevent: error\r\ndata:one\r\ndata: two\r\nid: 7\r\n"
    "retry: 10\r\n\r\ndata\rdata:  x\r\rfoo: bar\n\ndata: sep\u2028arated\u0085\n\ndata: last"
).encode()
EVENTS = [
    ("", "grüße 🎋"),
    ("error", "one\ntwo"),
    ("", "\n x"),
    ("", "sep\u2028arated\u0085"),
    ("", "last"),
]


def test_all_line_ends_comments_multi_line_data_and_no_final_blank_line_are_understood() -> None:
    assert read(SAMPLE) == EVENTS


@pytest.mark.parametrize("cut", range(len(SAMPLE) + 1))
def test_a_cut_anywhere_changes_nothing(cut: int) -> None:
    assert read(SAMPLE, cut) == EVENTS


def test_single_bytes_are_understood() -> None:
    assert read(SAMPLE, *range(1, len(SAMPLE))) == EVENTS


@given(st.lists(st.sampled_from([b"\r", b"\n", b"a", b""])), st.data())
def test_lines_do_not_depend_on_the_cuts(pieces: list[bytes], data: st.DataObject) -> None:
    text = b"".join(pieces)
    expected = LineReader(100)
    got = LineReader(100)
    lines = [line for piece in pieces for line in got.feed(piece)]
    assert lines == expected.feed(text)
    assert got.flush() == expected.flush()


def test_an_event_is_given_as_soon_as_its_blank_line_has_its_carriage_return() -> None:
    reader = SseReader(100)
    assert reader.feed(b"data: a\r\n\r") == [("", "a")]
    assert reader.feed(b"\ndata: b\n") == []
    assert reader.feed(b"\n") == [("", "b")]


def test_broken_utf8_is_replaced_and_the_stream_goes_on() -> None:
    assert read(b"data: \xff\xfe\n\ndata: b\n\n") == [("", "��"), ("", "b")]


def test_events_without_data_are_none() -> None:
    assert read(b"event: ping\n\nid: 1\n\n\n\n") == []


@pytest.mark.parametrize(
    "chunks",
    [
        [b"data: " + b"x" * 100],
        [b"data: " + b"x" * 50, b"x" * 50],
        [b"a\ndata: " + b"x" * 100],
        [b"data: " + b"x" * 100 + b"\n"],
        [b"data: " + b"x" * 30 + b"\n", b"data: " + b"x" * 30 + b"\n", b"data: " + b"x" * 40],
        [b": " + b"x" * 100],
    ],
)
def test_lines_and_events_are_bounded(chunks: list[bytes]) -> None:
    reader = SseReader(64)

    def feed_all() -> None:
        for piece in [*chunks, b"\n\n"]:
            reader.feed(piece)

    with pytest.raises(LineTooLongError):
        feed_all()
