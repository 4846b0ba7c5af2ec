"""Search for words in messages: one meaning of "found", which every store has.

A message is found when its folded text has every folded term as a substring. So all stores index
the same text, and none uses the folding of its database.
"""

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import NamedTuple

from bamboo_gateway.domain.errors import InvalidInput
from bamboo_gateway.domain.messages import Message

QUERY_CHARS_MAX = 200
"""The longest query, in characters: some sentences."""

TERMS_MAX = 10
"""The most terms of a query: each costs a look at every candidate."""

SNIPPET_CHARS_MAX = 240
"""The longest snippet, in characters: two or three lines of a list."""

_LEAD_CHARS = 80
"""How much of a snippet is in front of the first hit."""

_WORD_CHARS = 20
"""How much a snippet gives up at each end so as not to begin or end within a word."""

_PIECE_CHARS = 500
"""About how much text is folded at once when a hit's place is looked for: a long text is folded in
pieces, and only those with a hit are taken apart into characters."""


class Snippet(NamedTuple):
    """A part of a message's text, and the hits in it: `(start, end)` in characters of `text`."""

    text: str
    ranges: list[tuple[int, int]]


def parse(query: str) -> tuple[str, ...]:
    """Split a query into its folded terms, each once, in their order.

    Whitespace separates terms, and a `"quoted phrase"` is one term. A quote begins a phrase where a
    term begins, and ends it in front of whitespace or the end, so `5"` is a word with a quote. A
    phrase without an end goes to the end of the query.

    Raises:
        InvalidInput: The query is too long, or has no term or too many.
    """
    if not 1 <= len(query) <= QUERY_CHARS_MAX:
        raise _invalid(f"`q` has 1 to {QUERY_CHARS_MAX} characters; it has {len(query)}.")
    found = (quoted or rest or word for quoted, rest, word in _TERM.findall(query))
    # A phrase of nothing but whitespace says nothing.
    terms = tuple(dict.fromkeys(fold(term) for term in found if not term.isspace() and term))
    if not terms:
        raise _invalid("`q` has no word to search for.")
    if len(terms) > TERMS_MAX:
        raise _invalid(f"`q` has at most {TERMS_MAX} terms; it has {len(terms)}.")
    return terms


# A phrase with its end; one without; a word, which may begin with a quote that is alone.
_TERM = re.compile(r'"(.*?)"(?=\s|$)|"(\s*[^\s"].*)|(\S+)', re.DOTALL)


def _invalid(problem: str) -> InvalidInput:
    return InvalidInput(problem, errors=[{"loc": ["query", "q"], "msg": problem.replace("`", "")}])


def fold(text: str) -> str:
    """Return the form of a text that is searched. Folding again changes nothing.

    It ignores case in every script (`STRASSE` is `straße`), forms that mean the same (`ﬁ`, `é` in
    one character or two, full width) and how much whitespace there is, also at the end of a line.
    In Turkish, the other case of `i` has a dot, and that of `I` has none; here all four are one
    letter. What cannot be stored everywhere (NUL, a surrogate alone) becomes U+FFFD.
    """
    if text.isascii():
        folded = text.lower().replace("\0", "\N{REPLACEMENT CHARACTER}")
        return _WHITESPACE.sub(" ", folded)
    while True:
        folded = unicodedata.normalize("NFKC", _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", text))
        # What case folding makes of `İ` is an `i` with a dot above.
        folded = folded.casefold().replace("i\N{COMBINING DOT ABOVE}", "i").replace(_DOTLESS_I, "i")
        folded = _WHITESPACE.sub(" ", unicodedata.normalize("NFKC", folded))
        # Some characters need it twice: the Greek iota below changes its place when it is folded.
        if folded == text:
            return folded
        text = folded


_DOTLESS_I = "\N{LATIN SMALL LETTER DOTLESS I}"
_WHITESPACE = re.compile(r"\s+")
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def searched_text(message: Message) -> str:
    """Return what a search looks at: the text, without thinking, images, and arguments of calls.

    The results of tools are messages of the role `tool`, which only a search for that role finds.
    """
    return message.text


def snippet(text: str, terms: Collection[str]) -> Snippet:
    """Cut the surroundings of the first hit out of a text.

    Args:
        text: The text of a message, not folded.
        terms: Folded terms.

    Returns:
        At most `SNIPPET_CHARS_MAX` characters of the text, and the hits in them, in order. A hit
        covers whole characters of the text with their accents, also when the term is only a part
        of one (`f` in `ﬁ`). Hits that overlap are joined. A hit longer than the snippet is cut.
    """
    hit = _first_hit(text, terms)
    start = _snippet_start(text, hit.start)
    end = _snippet_end(text, start + SNIPPET_CHARS_MAX, hit.stop)
    shown = text[start:end]
    ranges = _hits(shown, terms)
    if not ranges and hit:
        ranges = [(hit.start - start, min(hit.stop, end) - start)]
    return Snippet(shown, ranges)


def _first_hit(text: str, terms: Collection[str]) -> range:
    """Return the place in a text of what a term finds first."""
    starts = [*_piece_starts(text), len(text)]
    folded = [fold(text[start:end]) for start, end in pairwise(starts)]
    whole = "".join(folded)
    places = [(place, len(term)) for term in terms if (place := whole.find(term)) >= 0]
    if not places:
        return range(0)
    place, length = min(places)
    # Only the pieces that the hit is in are taken apart.
    ends = list(accumulate(map(len, folded)))
    first, last = bisect_right(ends, place), bisect_left(ends, place + length)
    before = ends[first] - len(folded[first])
    origins = _Origins(text[starts[first] : starts[last + 1]])
    start, end = origins.span(place - before, place - before + length)
    return range(starts[first] + start, starts[first] + end)


def _piece_starts(text: str) -> Iterator[int]:
    start = 0
    while start < len(text):
        yield start
        start += _PIECE_CHARS
        while start < len(text) and not _begins_unit(text, start):
            start += 1


def _snippet_start(text: str, hit_start: int) -> int:
    lead = min(hit_start - _LEAD_CHARS, len(text) - SNIPPET_CHARS_MAX)
    if lead <= 0:
        return 0
    units = [i for i in range(lead, hit_start + 1) if _begins_unit(text, i)]
    words = (i for i in units if i < lead + _WORD_CHARS and text[i - 1].isspace())
    return next(words, units[0] if units else hit_start)


def _snippet_end(text: str, end: int, hit_end: int) -> int:
    if end >= len(text):
        return len(text)
    units = [
        i for i in range(end, max(hit_end, end - _LEAD_CHARS) - 1, -1) if _begins_unit(text, i)
    ]
    words = (i for i in units if i > end - _WORD_CHARS and text[i].isspace())
    return next(words, units[0] if units else end)


def _hits(text: str, terms: Collection[str]) -> list[tuple[int, int]]:
    """Return the places of all terms in a text, in order; overlapping ones are joined."""
    origins = _Origins(text)
    found: list[tuple[int, int]] = []
    for term in terms:
        place = origins.folded.find(term)
        while place >= 0:
            found.append(origins.span(place, place + len(term)))
            place = origins.folded.find(term, place + len(term))
    joined: list[tuple[int, int]] = []
    for start, end in sorted(found):
        if joined and start < joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


class _Origins:
    """A folded text that knows from which characters of the original each of its own comes."""

    def __init__(self, text: str) -> None:
        starts = [i for i in range(len(text)) if i == 0 or _begins_unit(text, i)]
        units = [fold(text[start:end]) for start, end in pairwise([*starts, len(text)])]
        self.folded = "".join(units)
        self._starts = [*starts, len(text)]
        self._ends = list(accumulate(map(len, units)))

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Return the place in the original of a part of the folded text."""
        first = bisect_right(self._ends, start)
        last = bisect_left(self._ends, end)
        return self._starts[first], self._starts[last + 1]


def _begins_unit(text: str, index: int) -> bool:
    """Return whether a text can be cut before a character, so that both parts fold as the whole.

    Characters that a reader sees as one (accents, joined emoji) also stay together.
    """
    if index <= 0 or index >= len(text):
        return True
    before, char = text[index - 1], text[index]
    if char.isascii():
        return not (char.isspace() and _folded_char(before)[-1] == " ")
    return not (
        _goes_on(char)
        or before == _JOINER
        or fold(before + char) != _folded_char(before) + _folded_char(char)
    )


@lru_cache(8192)
def _folded_char(char: str) -> str:
    return fold(char)


@lru_cache(8192)
def _goes_on(char: str) -> bool:
    """Return whether a character belongs to the one before it, whatever that is."""
    first = unicodedata.normalize("NFKD", char)[0]
    return (
        unicodedata.category(first)[0] == "M"
        # The second and third letters of a Korean syllable.
        or "\u1160" <= first <= "\u11ff"
        or first == _JOINER
        # The colours of emoji.
        or "\U0001f3fb" <= first <= "\U0001f3ff"
    )


_JOINER = "\N{ZERO WIDTH JOINER}"
