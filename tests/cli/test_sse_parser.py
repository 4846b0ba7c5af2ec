from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bamboo_gateway.cli import sse
from bamboo_gateway.cli.sse import Frame, FrameParser


def parsed(*chunks: bytes, last_id: str | None = None) -> list[Frame]:
    parser = FrameParser(last_id)
    return [frame for chunk in chunks for frame in parser.feed(chunk)]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_each_of_the_standards_line_ends_ends_a_line(end: bytes) -> None:
    stream = end.join([b"id: 1-1", b"data: a", b"data: b", b"", b""])
    assert parsed(stream) == [Frame("1-1", "a\nb")]


def test_a_cr_at_the_end_of_a_chunk_and_a_lf_at_the_start_of_the_next_are_one_line_end() -> None:
    assert parsed(b"data: a\r", b"\ndata: b\r", b"\n\r", b"\n") == [Frame(None, "a\nb")]


def test_a_frame_that_ends_with_cr_is_given_before_the_next_byte_comes() -> None:
    assert parsed(b"data: a\r\r") == [Frame(None, "a")]


def test_unicode_line_separators_are_content() -> None:
    text = "a\u2028b\u2029c\u0085d\x0be\x0cf"
    assert parsed(f"data: {text}\n\n".encode()) == [Frame(None, text)]


def test_an_id_lasts_until_another_and_a_frame_without_data_only_moves_it() -> None:
    parser = FrameParser("1-0")
    assert parser.last_id == "1-0"
    assert list(parser.feed(b"data: a\n\nid: 1-2\n\ndata: b\n\n")) == [
        Frame("1-0", "a"),
        Frame("1-2", "b"),
    ]
    assert parser.last_id == "1-2"


def test_the_id_of_a_frame_that_was_cut_does_not_count() -> None:
    parser = FrameParser()
    assert list(parser.feed(b"id: 1-1\ndata: a\n\nid: 1-2\ndata: half")) == [Frame("1-1", "a")]
    assert parser.last_id == "1-1"


def test_an_id_with_nul_is_ignored() -> None:
    assert parsed(b"id: 1-1\nid: 1\x00-2\ndata: a\n\n") == [Frame("1-1", "a")]


def test_comments_other_fields_and_a_byte_order_mark_say_nothing() -> None:
    stream = b"\xef\xbb\xbf: ping\nevent: x\ndata\nfoo: bar\ndata:a\ndata:  b\n\n"
    assert parsed(stream) == [Frame(None, "\na\n b")]


def test_retry_counts_when_it_is_a_number() -> None:
    parser = FrameParser()
    assert list(parser.feed(b"retry: 250\nretry: soon\n")) == []
    assert parser.retry_ms == 250


def test_a_line_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "LINE_BYTES_MAX", 10)
    with pytest.raises(ValueError, match="too long"):
        parsed(b"data: 12345", b"67890")


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
    assert parsed(*chunks) == parsed(stream) == parsed(*(bytes([byte]) for byte in stream))
