"""Offsets, cursors and frames of Durable Streams."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from bamboo_gateway.domain.positions import Position
from bamboo_gateway.sessions.streaming.event_queue import EventQueue
from bamboo_gateway.sessions.streaming.rendering import (
    CaughtUp,
    Goodbye,
    Heartbeat,
    Open,
    Ping,
    Reset,
)
from bamboo_gateway.wires.durable_streams.frames import FRAMES, DurableStreamFrames, ReturningFrames
from bamboo_gateway.wires.durable_streams.offsets import (
    cursor_at,
    offset_of,
    parse_cursor,
    parse_offset,
)
from tests.wires.streams import parsed

NUMBERS = st.integers(0, 10**16 - 1)
POSITIONS = st.builds(Position, NUMBERS, NUMBERS)


@given(POSITIONS, POSITIONS)
def test_offsets_sort_as_texts_in_the_order_of_positions(one: Position, other: Position) -> None:
    assert (offset_of(one) < offset_of(other)) == (one < other)
    assert (offset_of(one) == offset_of(other)) == (one == other)
    assert parse_offset(offset_of(one)) == one
    assert not set(offset_of(one)) & set(",&=?/")


@pytest.mark.parametrize(
    "text",
    [
        *("", "0", "-1", "now", "1-1", "1_1", "0" * 33, "0" * 16 + "_" + "0" * 17),
        *(
            "0" * 16 + "-" + "0" * 16,
            "0" * 16 + "_" + "0" * 16 + "\n",
            "\u0660" * 16 + "_" + "0" * 16,
        ),
    ],
)
def test_only_what_was_given_is_an_offset(text: str) -> None:
    assert parse_offset(text) is None


@given(POSITIONS, st.integers(0, 10**24))
def test_a_cursor_is_greater_than_the_one_that_came_and_grows_with_the_log(
    position: Position, seen: int
) -> None:
    assert cursor_at(position, seen) > seen or cursor_at(position) > seen
    assert cursor_at(position, seen) >= cursor_at(position)
    after = Position(position.epoch, position.seq + 1)
    assert cursor_at(after) > cursor_at(position, cursor_at(position))
    assert parse_cursor(str(seen)) == seen


@pytest.mark.parametrize("text", [None, "", "x", "-1", "1.5", "9" * 31, "\u0661"])
def test_what_is_no_cursor_says_nothing(text: str | None) -> None:
    assert parse_cursor(text) is None


def test_an_event_is_a_json_array_and_its_control_has_the_offset_behind_it() -> None:
    body = json.dumps({"type": "custom", "value": "a\nb\r\n\u2028event: control"}).encode()
    assert parsed(FRAMES.event(7, 42, body).decode()) == [
        ("data", [json.loads(body)]),
        (
            "control",
            {"streamNextOffset": offset_of(Position(7, 42)), "streamCursor": "42000000"},
        ),
    ]
    assert str(cursor_at(Position(7, 42))) == "42000000"


def test_what_the_protocol_does_not_know_gives_a_client_nothing() -> None:
    at = Position(7, 42)
    for shown in (
        Open(at, "s", "c", None, at),
        Reset(at, "epoch_changed"),
        Ping(),
        Heartbeat(at),
        Goodbye("closed", retry=False),
    ):
        assert parsed(FRAMES.control(shown).decode()) == []


def test_all_readers_share_one_rendered_event() -> None:
    class Counting(DurableStreamFrames):
        rendered = 0

        @override
        def event(self, epoch: int, seq: int, body: bytes, /) -> bytes:
            Counting.rendered += 1
            return super().event(epoch, seq, body)

    queue = EventQueue(Position(7, 0))
    queue.extend([b'{"seq":1}', b'{"seq":2}'])
    readers: list[Any] = [Counting(), *(ReturningFrames(seen) for seen in range(100))]
    readers[0].__class__.__hash__ = ReturningFrames.__hash__
    chunks = {queue.take(cursor, reader) for reader in readers for cursor in (0, 1)}
    assert len(chunks) == 2
    assert Counting.rendered == 2
    # And a client that comes back gets a cursor of its own in its first control event.
    shown = ReturningFrames(10**9).control(CaughtUp(Position(7, 42)))
    assert parsed(shown.decode())[0][1]["streamCursor"] == str(10**9 + 1)
