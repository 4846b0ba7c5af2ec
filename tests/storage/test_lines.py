"""Stored lines: how the JSONL store writes events and notes, byte for byte."""

import json
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bamboo_gateway.domain import codec
from bamboo_gateway.domain.events import DELTA_TYPES, TERMINAL_TYPES
from bamboo_gateway.storage.commits import Commit, Event, Note
from bamboo_gateway.storage.jsonl.line_commit import LineCommit, line_commit
from bamboo_gateway.storage.lines import body_of, delta_bytes, is_intact, mark_of_line, to_line
from tests.storage.conftest import Opener
from tests.storage.writing import Writer, committed, complete, message, run_start, token


@given(st.binary(max_size=60), st.integers(0, 200), st.integers(1, 255))
def test_a_line_with_any_byte_changed_is_not_intact(noise: bytes, place: int, change: int):
    """R10."""
    body = codec.encode({"type": "token", "content": noise.decode("latin-1")})
    line = to_line(body)
    assert is_intact(line)
    assert body_of(line) == body
    at = place % len(line)
    torn = bytearray(line)
    torn[at] ^= change
    assert not is_intact(bytes(torn))
    assert not is_intact(line[:at])


def line(body: bytes) -> bytes:
    """Return a line as the format defines it and older gateways wrote it."""
    return b'{"crc":"' + format(crc32(body), "08x").encode() + b'",' + body[1:] + b"\n"


def lined(commit: Commit) -> LineCommit:
    """Return a commit with its lines, which nobody waits for."""
    return line_commit(commit, lambda _: None)


async def test_a_log_holds_the_lines_of_its_commits_in_their_order(
    opener: Opener, data_dir: Path
) -> None:
    """The format on disk: older and newer gateways read each other's lines."""
    store = await opener()
    writer = Writer("s-1", store.next_epoch())
    commits = [
        writer.commit(message("m1"), run_start("run_1"), token("a"), note="k1"),
        writer.commit(token("b")),
        writer.commit(note="k2"),
        writer.commit(complete("run_1")),
    ]
    for commit in commits:
        await committed(store, commit)
    await store.aclose()
    header, *lines = (data_dir / "events" / "s-1.jsonl").read_bytes().splitlines(keepends=True)
    assert json.loads(header)["epoch"] == writer.head.epoch
    expected: list[bytes] = []
    for commit in commits:
        expected += [line(event.body) for event in commit.events]
        expected += [line(note.body) for note in commit.notes]
    assert lines == expected


def test_a_note_has_its_line_behind_the_event_that_it_follows() -> None:
    """One commit may have the notes of several decisions."""
    events = [Event(seq, "custom", b'{"type":"custom","seq":%d}' % seq) for seq in (5, 6, 7)]
    notes = [
        Note(seq, key, b'{"note":"idempotency","key":"%b"}' % key.encode())
        for seq, key in ((4, "a"), (5, "b"), (5, "c"), (7, "d"))
    ]
    lines = lined(Commit("s-1", 1, 5, events, notes)).data.splitlines(keepends=True)
    named = [json.loads(one).get("key") or json.loads(one)["seq"] for one in lines]
    assert named == ["a", 5, "b", "c", 6, 7, "d"]


IDS = st.text(min_size=1, max_size=8)
TYPES = sorted({*TERMINAL_TYPES, *DELTA_TYPES, "run_start", "run_queued", "message", "custom"})


@st.composite
def shapes(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(TYPES))
    shape: dict[str, Any] = {"type": kind, "seq": 0, "time": "2026-11-20T17:25:00.123Z"}
    if kind != "custom" and (kind != "message" or draw(st.booleans())):
        shape["run_id"] = draw(IDS)
    if kind == "message":
        name = draw(IDS)
        shape |= {"message_id": name, "message": {"id": name, "content": draw(st.text())}}
    return shape


@given(st.lists(shapes(), min_size=1, max_size=6), st.lists(IDS, max_size=3))
def test_the_marks_of_a_commit_are_those_of_its_lines(
    drafts: list[dict[str, Any]], keys: list[str]
) -> None:
    """So `find` finds the same after a commit, a replay and a rebuild."""
    events = [
        Event(seq, draft["type"], codec.encode(draft | {"seq": seq}))
        for seq, draft in enumerate(drafts, 1)
    ]
    notes = [
        Note(len(events), key, codec.encode({"note": "idempotency", "key": key, "time": 1}))
        for key in keys
    ]
    commit = lined(Commit("s-1", 1, 1, events, notes))
    marks, offset, seq = [], 0, 0
    for one in commit.data.splitlines(keepends=True):
        shape = json.loads(one)
        seq = shape.get("seq", seq)
        mark = mark_of_line(one, seq)
        if mark is not None:
            marks.append((mark, offset))
            key = shape.get("key") or shape.get("message_id") or shape["run_id"]
            assert (mark.key, mark.seq) == (key, seq)
        offset += len(one)
    assert list(commit.marks) == marks
    assert [mark.kind for mark, _ in marks] == [
        *("message" if e.type == "message" else "run" for e in events if e.type in MARKED),
        *("note" for _ in notes),
    ]
    assert commit.delta_bytes == delta_bytes(commit.data)


MARKED = {*TERMINAL_TYPES, "run_start", "run_queued", "message"}


@pytest.mark.parametrize("shape", [{"type": "error", "seq": 1, "time": "t", "code": "x"}])
def test_an_event_without_a_run_has_no_mark(shape: dict[str, Any]) -> None:
    event = Event(1, shape["type"], codec.encode(shape))
    assert list(lined(Commit("s-1", 1, 1, [event])).marks) == []
