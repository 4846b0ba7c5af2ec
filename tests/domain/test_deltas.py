"""Deltas that are encoded piece by piece have the bytes that the encoder makes of the whole."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bamboo_gateway.domain.codec import encode
from bamboo_gateway.domain.deltas import DeltaStem, encoded_text, joined
from bamboo_gateway.domain.errors import InvalidEvent

TIME = "2026-11-20T17:25:00.123Z"
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
NAMES = st.dictionaries(st.sampled_from(["run_id", "message_id", "tool_call_id"]), TEXT, min_size=1)
KINDS = st.sampled_from(["token", "thinking", "tool_delta"])


@given(kind=KINDS, fields=NAMES, seq=st.integers(1, 2**53), texts=st.lists(TEXT, min_size=1))
def test_a_body_made_of_pieces_is_the_encoded_event(
    kind: str, fields: dict[str, str], seq: int, texts: list[str]
) -> None:
    stem = DeltaStem(kind, fields)
    first, *more = [encoded_text(kind, text) for text in texts]
    event = {"type": kind, "seq": seq, "time": TIME, **fields}
    body = stem.body(seq, TIME, first)
    assert body == encode({**event, "content": texts[0]})
    assert joined(body, more) == encode({**event, "content": "".join(texts)})
    assert stem.draft(texts[0]) == (kind, {**fields, "content": texts[0]})


@pytest.mark.parametrize("content", ["\ud83d", "a\udc00b", 5, None, b"bytes", ["a"]])
def test_content_that_is_no_text_is_refused(content: Any) -> None:
    with pytest.raises(InvalidEvent, match="'token'"):
        encoded_text("token", content)
