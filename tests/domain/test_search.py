"""Folding, queries and snippets of the search, against brute force over many scripts."""

# ruff: noqa: RUF001 - characters that look like others are the point

import sys
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bamboo_gateway.domain.errors import InvalidInput
from bamboo_gateway.domain.messages import Message
from bamboo_gateway.domain.search import (
    QUERY_CHARS_MAX,
    SNIPPET_CHARS_MAX,
    fold,
    parse,
    searched_text,
    snippet,
)
from tests.support.scripts import texts

EVERY_CHARACTER = [chr(number) for number in range(sys.maxunicode + 1)]


# -- fold ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("term", "text"),
    [
        ("strasse", "Straße"),
        ("straße", "STRASSE"),
        ("strasse", "STRAẞE"),
        ("istanbul", "İstanbul"),
        ("İSTANBUL", "istanbul"),
        ("ısparta", "ISPARTA"),
        ("diyarbakır", "DİYARBAKIR"),
        ("istanbul", "I\N{COMBINING DOT ABOVE}stanbul"),
        ("ὀδυσσεύς", "ὈΔΥΣΣΕΎΣ"),
        ("Σ", "λόγος"),
        ("file", "ﬁle"),
        ("café", "cafe\N{COMBINING ACUTE ACCENT}"),
        ("CAFE\N{COMBINING ACUTE ACCENT}", "café"),
        ("ｶﾞ", "ガ"),
        ("abc", "ＡＢＣ"),
        ("한", "\u1112\u1161\u11ab"),
        ("two words", "two\n\t words"),
        ("two words", "two\N{NO-BREAK SPACE}words"),
        ("dž", "Ǆ"),
    ],
)
def test_case_and_forms_of_a_character_do_not_matter(term, text):
    assert fold(term) in fold(text)


@pytest.mark.parametrize(
    ("term", "text"), [("cafe", "café"), ("e", "é"), ("%", "percent"), ("a_c", "abc")]
)
def test_accents_and_signs_do_matter(term, text):
    assert fold(term) not in fold(text)


def test_every_character_has_a_folded_form_that_can_be_stored_and_folds_to_itself():
    for char in EVERY_CHARACTER:
        folded = fold(char)
        assert fold(folded) == folded
        assert folded.encode()
        assert "\0" not in folded


def test_the_cases_of_every_character_fold_to_the_same():
    for char in EVERY_CHARACTER:
        for other in {char.lower(), char.upper(), char.casefold()} - {char}:
            assert fold(char) == fold(other)


@given(texts())
@example("\u0345\u0301")
@example("ᾳ\u0301\u0345")
@example("ı\u0307\u0307")
def test_folding_again_changes_nothing(text):
    assert fold(fold(text)) == fold(text)


@given(texts())
def test_forms_of_a_text_that_mean_the_same_fold_to_the_same(text):
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert fold(unicodedata.normalize(form, text)) == fold(text)


# -- parse -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "terms"),
    [
        ("two Words", ("two", "words")),
        ('"a  Phrase" and', ("a phrase", "and")),
        ("again AGAIN ﬁ FI", ("again", "fi")),
        ("京都\N{IDEOGRAPHIC SPACE}大阪", ("京都", "大阪")),
        ('"no end of it', ("no end of it",)),
        ('it is 5" long', ("it", "is", '5"', "long")),
        ('"', ('"',)),
        ('"""', ('"',)),
        ('"say "hi"', ('say "hi',)),
        ("%_\\'", ("%_\\'",)),
        ("\0", ("\N{REPLACEMENT CHARACTER}",)),
    ],
)
def test_a_query_is_words_and_phrases(query, terms):
    assert parse(query) == terms


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("", "1 to 200 characters"),
        ("a" * (QUERY_CHARS_MAX + 1), "it has 201"),
        ("  \n", "no word"),
        ('""', "no word"),
        ('" "', "no word"),
        ("a b c d e f g h i j k", "at most 10 terms; it has 11"),
    ],
)
def test_a_query_outside_the_limits_is_refused_with_the_reason(query, problem):
    with pytest.raises(InvalidInput, match=problem) as refused:
        parse(query)
    assert refused.value.errors[0]["loc"] == ["query", "q"]


@given(st.text(max_size=QUERY_CHARS_MAX + 5))
def test_any_query_is_parsed_or_refused(query):
    try:
        terms = parse(query)
    except InvalidInput:
        return
    assert terms
    for term in terms:
        assert term == fold(term) != ""


# -- what is searched ------------------------------------------------------------------------


def test_only_the_text_of_a_message_is_searched():
    parts = [
        {"type": "text", "text": "said "},
        {"type": "thinking", "text": "thought"},
        {"type": "image", "url": "https://example.org/image"},
        {"type": "text", "text": "too"},
    ]
    calls = [{"id": "c", "name": "tool", "arguments": {"city": "Kyoto"}}]
    message = Message("m", "assistant", parts, "2026-01-01T00:00:00Z", tool_calls=calls)
    assert searched_text(message) == "said too"


# -- snippets --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "terms", "shown"),
    [
        ("The Straße", ["strasse"], ["Straße"]),
        ("a ﬁle, a file", ["i"], ["ﬁ", "i"]),
        ("cafe\N{COMBINING ACUTE ACCENT} noir", ["é"], ["e\N{COMBINING ACUTE ACCENT}"]),
        ("ก่อน", ["ก"], ["ก่"]),
        ("one two three", ["three", "one"], ["one", "three"]),
        ("abcd", ["abc", "bcd"], ["abcd"]),
        ("aaa", ["a"], ["a", "a", "a"]),
        ("two\n  words", ["two words"], ["two\n  words"]),
        (
            "hi 👍🏽 and 👩\N{ZERO WIDTH JOINER}💻",
            ["👍", "👩"],
            ["👍🏽", "👩\N{ZERO WIDTH JOINER}💻"],
        ),
        ("100% _sure_", ["%", "_"], ["%", "_", "_"]),
        ("İstanbul", ["i"], ["İ"]),
        ("nothing", ["x"], []),
    ],
)
def test_ranges_cover_whole_characters_of_the_text(text, terms, shown):
    found = snippet(text, terms)
    assert found.text == text
    assert [found.text[start:end] for start, end in found.ranges] == shown


def test_a_snippet_of_a_long_text_is_about_the_first_hit():
    text = "word " * 1000 + "a Needle here" + " word" * 1000 + " needle"
    found = snippet(text, ["needle"])
    assert len(found.text) <= SNIPPET_CHARS_MAX
    assert found.text.startswith("word ")
    assert found.text.endswith(" word")
    assert [found.text[start:end] for start, end in found.ranges] == ["Needle"]


def test_a_snippet_at_the_end_of_a_text_shows_what_comes_before():
    found = snippet("word " * 1000 + "needle", ["needle"])
    assert len(found.text) > SNIPPET_CHARS_MAX - 20
    assert found.text.endswith("needle")


@pytest.mark.parametrize(
    ("text", "term"),
    [
        ("a" + "\N{COMBINING ACUTE ACCENT}" * 5000 + "b", "áb"),
        ("one" + " " * 5000 + "two", "one two"),
        ("x" * 2000, "x" * 300),
        ("ﷺ" * 2000, fold("ﷺ" * 200)),
    ],
)
def test_a_hit_that_is_longer_than_a_snippet_is_cut(text, term):
    term = fold(term)
    found = snippet(text, [term] if term in fold(text) else [fold(text)])
    assert 0 < len(found.text) <= SNIPPET_CHARS_MAX
    assert found.ranges[0][1] <= len(found.text)


@given(texts(), st.data())
def test_a_snippet_has_the_first_hit_and_its_ranges_are_hits(text, data):
    folded = fold(text)
    if not folded:
        return
    places = st.integers(0, len(folded) - 1)
    starts = data.draw(st.lists(places, min_size=1, max_size=3))
    terms = [folded[start : start + data.draw(st.integers(1, 12))] for start in starts]
    found = snippet(text, terms)
    assert found.text in text
    assert len(found.text) <= SNIPPET_CHARS_MAX
    assert found.ranges == sorted(found.ranges)
    assert found.ranges
    for start, end in found.ranges:
        assert 0 <= start < end <= len(found.text)
        assert any(term in fold(found.text[start:end]) for term in terms)
    # As many places are shown as there are in the folded snippet, but those that share characters.
    for term in terms:
        count = sum(fold(found.text[start:end]).count(term) for start, end in found.ranges)
        assert count >= fold(found.text).count(term)
