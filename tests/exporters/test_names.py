"""File names of exports are safe on every disk and in every header."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bamboo_gateway.exporters.names import content_disposition, file_name


@given(st.text(max_size=300), st.sampled_from([".md", ".json"]))
def test_a_file_name_is_safe_and_never_a_path(title: str, suffix: str):
    name = file_name({"id": "s-1", "title": title}, suffix)
    assert name.endswith(suffix)
    assert len(name.removesuffix(suffix)) >= 1
    assert not set(name) & set('/\\:*?"<>|\0\r\n \t')
    assert not name.startswith((".", "-"))
    assert len(name.encode()) < 255 + len(suffix)


@given(st.text(max_size=300))
def test_a_header_is_one_line_of_ascii(title: str):
    header = content_disposition(file_name({"id": "s-1", "title": title}, ".md"))
    assert header.isascii()
    assert header.isprintable()
    assert header.count('"') == 2


@pytest.mark.parametrize(
    ("session", "name"),
    [
        ({"id": "s-1", "title": "Plan: a trip / 2026"}, "Plan_a_trip_2026.md"),
        ({"id": "s-1", "title": None}, "s-1.md"),
        ({"id": "s-1", "title": "../.."}, "s-1.md"),
        ({"id": "s-1", "title": "CON"}, "session_CON.md"),
        ({"id": "s-1", "title": "nul.txt"}, "session_nul.txt.md"),
        ({"title": "…"}, "session.md"),
        ({"id": "s-1", "title": "Überblick 旅"}, "Überblick_旅.md"),
    ],
)
def test_a_title_becomes_a_name(session, name: str):
    assert file_name(session, ".md") == name


def test_a_name_beyond_ascii_is_sent_in_both_forms():
    assert content_disposition("Ü旅.md") == (
        "attachment; filename=\"session.md\"; filename*=UTF-8''%C3%9C%E6%97%85.md"
    )
