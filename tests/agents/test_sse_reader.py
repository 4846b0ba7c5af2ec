"""The reader of event streams, at every place where bytes can be cut."""

from itertools import pairwise

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
    """Read a stream to its end: an event without a blank line after it counts."""
    reader = SseReader(1000)
    events: list[ServerSentEvent] = []
    for begin, end in zip((0, *cuts), (*cuts, len(data)), strict=True):
        events += reader.feed(data[begin:end])
    return [(event.event, event.data) for event in [*events, *reader.flush()]]


def resumable(*chunks: bytes, last_event_id: str | None = None) -> list[tuple[str | None, str]]:
    """Read a stream that was cut: only whole events count."""
    reader = SseReader(1000, last_event_id)
    return [(event.id, event.data) for chunk in chunks for event in reader.feed(chunk)]


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


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_each_of_the_standards_line_ends_ends_a_line(end: bytes) -> None:
    stream = end.join([b"id: 1-1", b"data: a", b"data: b", b"", b""])
    assert resumable(stream) == [("1-1", "a\nb")]


def test_a_cr_at_the_end_of_a_chunk_and_a_lf_at_the_start_of_the_next_are_one_line_end() -> None:
    assert resumable(b"data: a\r", b"\ndata: b\r", b"\n\r", b"\n") == [(None, "a\nb")]


def test_an_event_is_given_as_soon_as_its_blank_line_has_its_carriage_return() -> None:
    reader = SseReader(100)
    assert [event.data for event in reader.feed(b"data: a\r\n\r")] == ["a"]
    assert reader.feed(b"\ndata: b\n") == []
    assert [event.data for event in reader.feed(b"\n")] == ["b"]


def test_unicode_line_separators_are_content() -> None:
    text = "a\u2028b\u2029c\u0085d\x0be\x0cf"
    assert resumable(f"data: {text}\n\n".encode()) == [(None, text)]


def test_broken_utf8_is_replaced_and_the_stream_goes_on() -> None:
    assert read(b"data: \xff\xfe\n\ndata: b\n\n") == [("", "��"), ("", "b")]


def test_events_without_data_are_none() -> None:
    assert read(b"event: ping\n\nid: 1\n\n\n\n") == []


def test_an_id_lasts_until_another_and_an_event_without_data_only_moves_it() -> None:
    reader = SseReader(100, "1-0")
    assert reader.last_event_id == "1-0"
    assert reader.feed(b"data: a\n\nid: 1-2\n\ndata: b\n\n") == [
        ServerSentEvent("", "a", "1-0"),
        ServerSentEvent("", "b", "1-2"),
    ]
    assert reader.last_event_id == "1-2"


def test_the_id_of_an_event_that_was_cut_does_not_count() -> None:
    reader = SseReader(100)
    assert reader.feed(b"id: 1-1\ndata: a\n\nid: 1-2\ndata: half") == [
        ServerSentEvent("", "a", "1-1")
    ]
    assert reader.last_event_id == "1-1"


def test_an_id_with_nul_is_ignored() -> None:
    assert resumable(b"id: 1-1\nid: 1\x00-2\ndata: a\n\n") == [("1-1", "a")]


def test_comments_other_fields_and_a_byte_order_mark_are_ignored() -> None:
    stream = b"\xef\xbb\xbf: ping\nevent: x\ndata\nfoo: bar\ndata:a\ndata:  b\n\n"
    assert resumable(stream) == [(None, "\na\n b")]


def test_retry_counts_when_it_is_a_number() -> None:
    reader = SseReader(100)
    assert reader.feed(b"retry: 250\nretry: soon\n") == []
    assert reader.retry_ms == 250


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


LINES = st.sampled_from(
    [
        b"data: a",
        b"data:",
        b"id: 7-1",
        b"id",
        b": ping",
        b"retry: 5",
        b"",
        b"",
        "data: ü\u2028".encode(),
    ]
)


@given(
    st.lists(st.tuples(LINES, st.sampled_from([b"\n", b"\r", b"\r\n"]))),
    st.lists(st.integers(0, 200)),
    st.booleans(),
)
def test_where_the_network_cuts_a_stream_changes_nothing(
    lines: list[tuple[bytes, bytes]], cuts: list[int], bom: bool
) -> None:
    stream = (b"\xef\xbb\xbf" if bom else b"") + b"".join(line + end for line, end in lines)
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    chunks = [stream[a:b] for a, b in pairwise(places)]
    whole = resumable(stream)
    assert resumable(*chunks) == whole == resumable(*(bytes([byte]) for byte in stream))


PIECES = st.sampled_from(
    [
        *[b"data: {}\n\n", b"data: {}\r\n\r\n", b"data: \n\n", b"data:  \xc3\xbc\n\n"] * 3,
        *[b"data: \xff\n\n", b"data: a\ndata: b\n\n", b"data:x\n\n", b"data: a\rb\n\n"],
        *[b"data: " + b"y" * 60 + b"\n\n", b": c\n\n", b"id: 1\n", b"event: x\n", b"data: half"],
        *[b"\n", b"\r", b"\r\n", b"\xef\xbb\xbf", b"data: a\n\r\n", b"data: a\r\n\n"],
    ]
)


@given(st.lists(PIECES), st.lists(st.integers(0, 200)), st.booleans())
def test_data_alone_is_that_of_the_events(
    pieces: list[bytes], cuts: list[int], as_sent: bool
) -> None:
    stream = b"".join(pieces)
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    chunks = pieces if as_sent else [stream[a:b] for a, b in pairwise(places)]
    events, data = SseReader(64), SseReader(64)
    for chunk in chunks:
        try:
            expected = [event.data.encode() for event in events.feed(chunk)]
        except LineTooLongError:
            with pytest.raises(LineTooLongError):
                data.feed_data(chunk)
            return
        assert data.feed_data(chunk) == expected
        assert data.last_event_id == events.last_event_id
    assert data.flush_data() == [event.data.encode() for event in events.flush()]


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n"])
def test_several_events_in_one_chunk_are_several(end: bytes) -> None:
    reader = SseReader(1000)
    stream = b"".join(b"data: %d" % number + end for number in range(5))
    assert reader.feed_data(stream) == reader.feed_data(stream) == [b"0", b"1", b"2", b"3", b"4"]
