"""Previews and titles: short, on one line, and cut where a reader would cut them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bamboo_gateway.domain.codec import decode, encode
from bamboo_gateway.domain.projections import fold
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.domain.short_text import (
    PREVIEW_CHARS_MAX,
    TITLE_CHARS_MAX,
    preview_of,
    shortened,
    title_of,
)

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"


def said(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"id": "m", "role": role, "content": content, **more}


@given(st.text(max_size=400))
def test_a_short_text_is_one_line_of_bounded_length_and_a_part_of_the_text(text: str):
    found = shortened(text, 50)
    assert len(found) <= 50
    assert " ".join(found.split()) == found
    if text.isascii() and text.isprintable():
        assert " ".join(text.split()).startswith(found)


@given(st.text(max_size=200))
def test_a_title_is_none_or_a_text_that_fits(text: str):
    title = title_of(text)
    assert title is None or 0 < len(title) <= TITLE_CHARS_MAX


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("Hello!", "Hello!"),
        ("  How\n do\tI  ", "How do I"),
        (" \n ", None),
        ("word " * 12 + "next", "word " * 11 + "word"),
        ("x" * 59 + " yy", "x" * 59),
        ("x" * 60 + " yy", "x" * 60),
        ("x" * 100, "x" * 60),
        ("a " + "x" * 100, "a " + "x" * 58),
        ("京" * 70, "京" * 60),
    ],
)
def test_a_title_ends_behind_a_word(text: str, title: str | None):
    assert title_of(text) == title


def test_a_cut_never_leaves_a_part_of_a_character():
    assert shortened("a" * 9 + FAMILY + "b", 10) == "a" * 9
    assert shortened("a" * 9 + "e\u0301b", 10) == "a" * 9
    assert shortened("a" * 5 + FAMILY, 10) == "a" * 5 + FAMILY
    assert shortened("a" * 9 + "\U0001f44d\U0001f3fd", 10) == "a" * 9


def test_marks_that_turn_the_writing_direction_are_left_out():
    """They would turn what stands after the text in a list."""
    assert shortened("a\u202eb\0c", 10) == "abc"


def test_a_text_of_a_million_words_costs_no_more_than_its_beginning():
    assert shortened("word " * 1_000_000, 14) == "word word word"


@pytest.mark.parametrize(
    ("message", "preview"),
    [
        (said("user", "Hi"), "Hi"),
        (said("assistant", [{"type": "thinking", "text": "hm"}, {"type": "text", "text": "Ho"}]),
         "Ho"),
        (said("assistant", [{"type": "thinking", "text": "hm"}]), None),
        (said("assistant", "", tool_calls=[{"id": "c", "name": "t", "arguments": {"a": 1}}]), None),
        (said("user", [{"type": "image", "url": "https://x/y"}]), None),
        (said("tool", "rows", tool_call_id="c"), None),
        (said("system", "You are …"), None),
        (said("user", "x" * 500), "x" * PREVIEW_CHARS_MAX),
    ],
)  # fmt: skip
def test_a_preview_is_what_a_person_or_the_assistant_said(
    message: dict[str, Any], preview: str | None
):
    assert preview_of(message) == preview


def test_a_head_keeps_the_last_preview_until_a_merge_replaces_the_messages():
    head = SessionHead("s", 1)
    time = "2026-11-20T17:25:00.123Z"

    def add(kind: str, **fields: Any) -> str | None:
        fold(head, {"type": kind, "seq": head.seq + 1, "time": time, **fields})
        return head.preview

    assert add("session_created") is None
    assert add("message", message=said("user", "one")) == "one"
    assert add("message", message=said("tool", "rows", tool_call_id="c")) == "one"
    assert add("message", message=said("assistant", "two")) == "two"
    assert SessionHead.of(decode(encode(head.to_json()))).preview == "two"
    replaces = {"source": {"session_id": "t"}, "replaces": True}
    assert add("session_merged", **replaces) is None


def test_a_head_of_an_earlier_version_has_no_preview():
    head = SessionHead("s", 1, message_count=3)
    stored = head.to_json()
    assert "preview" not in stored
    assert SessionHead.of(stored).preview is None
