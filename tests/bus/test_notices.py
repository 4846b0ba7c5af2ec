"""Notices as bytes: each comes back as it was, and nothing else is taken for one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bamboo_gateway.bus.base import Notice
from bamboo_gateway.bus.notices import pack, sender_of, unpack

SENDER = b"12345678"
numbers = st.integers(0, 2**63 - 1)
notices = st.builds(
    Notice,
    st.just("s"),
    numbers,
    numbers,
    numbers,
    st.none() | st.lists(st.binary(max_size=300), max_size=20).map(tuple),
)


@given(notices)
def test_a_notice_comes_back_as_it_was(notice: Notice) -> None:
    data = pack(SENDER, notice)
    assert unpack("s", data) == notice
    assert sender_of(data) == SENDER


@given(notices, st.data())
def test_a_part_of_a_notice_is_none(notice: Notice, data: st.DataObject) -> None:
    packed = pack(SENDER, notice)
    assert unpack("s", packed[: data.draw(st.integers(0, len(packed) - 1))]) is None


@given(st.binary(max_size=200))
def test_any_bytes_are_a_notice_or_none(data: bytes) -> None:
    found = unpack("s", data)
    assert found is None or pack(sender_of(data), found) == data


@pytest.mark.parametrize("kind", [0, 2, 255])
def test_a_notice_of_another_format_is_not_read(kind: int) -> None:
    data = pack(SENDER, Notice("s", 1, 2, 3, (b"x",)))
    assert unpack("s", bytes([kind]) + data[1:]) is None
