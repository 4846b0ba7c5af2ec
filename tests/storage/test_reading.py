"""R2, R11: a few small reads find any place of a log, whatever lines are around it."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import override

from bamboo_gateway.domain import codec
from bamboo_gateway.sessions.idempotency import RequestKey
from bamboo_gateway.storage.file_system import FileSystem
from bamboo_gateway.storage.jsonl.log.log import LogView, make_header
from bamboo_gateway.storage.jsonl.log.reader import DamagedError, LineReader, find_after, read_page
from bamboo_gateway.storage.lines import to_line


class CountingFileSystem(FileSystem):
    bytes_read = 0

    @override
    def pread(self, fd: int, size: int, offset: int) -> bytes:
        data = super().pread(fd, size, offset)
        self.bytes_read += len(data)
        return data


def make_lines(shape: list[tuple[str, int, int]]) -> tuple[list[tuple[int, bytes]], bytes]:
    """Return events as (seq, body), and the log; it has gaps in its seqs, and notes."""
    events: list[tuple[int, bytes]] = []
    parts = [make_header("s-1", 1, 1)]
    seq = 0
    for kind, hole, size in shape:
        if kind == "note":
            note = RequestKey("digest", "b").note({"text": "x" * size}, 1)
            parts.append(to_line(note.body))
        else:
            seq += hole
            body = codec.encode({"type": kind, "seq": seq, "time": "t", "content": "y" * size})
            events.append((seq, body))
            parts.append(to_line(body))
    return events, b"".join(parts)


SHAPES = st.lists(
    st.tuples(
        st.sampled_from(["token", "message", "note"]),
        st.integers(1, 4),
        st.sampled_from([0, 10, 200, 5000, 40_000]),
    ),
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(shape=SHAPES, data=st.data())
def test_a_page_has_the_events_after_the_position(
    tmp_path_factory: pytest.TempPathFactory, shape: list[tuple[str, int, int]], data: st.DataObject
) -> None:
    events, content = make_lines(shape)
    path = tmp_path_factory.mktemp("log") / "log"
    written = data.draw(st.integers(0, len(content)))
    path.write_bytes(content[:written])
    last = events[-1][0] if events else 0
    view = LogView(FileSystem(), path, 1, written, content[written:], len(content))
    try:
        for _ in range(4):
            after = data.draw(st.integers(0, last + 2))
            limit = data.draw(st.integers(1, 8))
            expected = [event for event in events if event[0] > after][:limit]
            page, end = read_page(view, after, None, limit, 1 << 30)
            assert [(record.seq, record.body) for record in page] == expected
            if page:
                more, _ = read_page(view, page[-1].seq, end, limit, 1 << 30)
                following = [event for event in events if event[0] > page[-1].seq][:limit]
                assert [(record.seq, record.body) for record in more] == following
    finally:
        view.close()


def test_finding_a_position_takes_logarithmic_reads(tmp_path: Path) -> None:
    events, content = make_lines([("token", 1, 60)] * 50_000)
    path = tmp_path / "log"
    path.write_bytes(content)
    fs = CountingFileSystem()
    view = LogView(fs, path, 1, len(content), b"", len(content))
    for after in (1, 17, 25_000, 49_990, events[-1][0]):
        fs.bytes_read = 0
        start = find_after(view, after)
        assert fs.bytes_read < 300_000 < len(content) / 20
        assert start <= content.find(b'"seq":%d,' % (after + 1)) or after == events[-1][0]
    view.close()


def test_damage_on_the_way_to_a_position_is_reported(tmp_path: Path) -> None:
    """R4."""
    _, content = make_lines([("token", 1, 60)] * 1000)
    place = content.index(b'"seq":50,')
    path = tmp_path / "log"
    path.write_bytes(content[:place] + b'"seq":9' + content[place + 7 :])
    view = LogView(FileSystem(), path, 1, len(content), b"", len(content))
    with pytest.raises(DamagedError):
        read_page(view, 10, None, 1000, 1 << 30)
    assert len(read_page(view, 900, None, 1000, 1 << 30)[0]) == 100
    view.close()


class Recorded(LogView):
    """A view that counts its reads."""

    reads = 0
    read_bytes = 0

    @override
    def read(self, offset: int, size: int) -> bytes:
        data = super().read(offset, size)
        self.reads += 1
        self.read_bytes += len(data)
        return data


@pytest.mark.parametrize(
    "lengths",
    [(200, 0), (200, 20_000), (300_000, 0), (50, 3000), (5000, 0), (7000, 0), (20_000, 0)],
)
@pytest.mark.parametrize("reverse", [False, True])
def test_reading_ahead_gives_the_same_lines_in_few_reads_of_little_more(
    tmp_path: Path, lengths: tuple[int, int], reverse: bool
) -> None:
    """R7: messages of one length, with a line of another length between them."""
    length, between = lengths
    parts = [make_header("s", 7, 0)]
    places: list[tuple[int, bytes]] = []
    offset = len(parts[0])
    token = to_line(b'{"type":"token","x":"%b"}' % (b"y" * between)) if between else b""
    for n in range(40 if length > 100_000 else 1000):
        line = to_line(b'{"type":"message","seq":%d,"x":"%b"}' % (n, b"x" * length))
        places.append((offset, line))
        parts += [line, token]
        offset += len(line) + len(token)
    content = b"".join(parts)
    path = tmp_path / "log"
    path.write_bytes(content)
    view = Recorded(FileSystem(), path, 7, len(content), b"", len(content))
    lines = LineReader(view)
    for offset, line in reversed(places) if reverse else places:
        assert lines.begins_line(offset)
        assert not lines.begins_line(offset + 1)
        assert lines.line_at(offset) == line
    view.close()
    if length + between < 100_000:
        assert view.read_bytes < max(2 * len(content), 5000 * len(places))
    if lengths == (200, 0):
        assert view.reads < 40
