"""Folded texts written with ASCII letters and digits, so that every database finds parts of them.

The trigram indexes of databases have limits: FTS5 finds nothing for two characters, pg_trgm drops
what is no letter, or under a C locale no ASCII, and LIKE has wildcards. In this code each character
is one or several letters, and nothing else occurs. So their trigrams are all that is needed, case
and locale of the database do not matter, and a part of the code is a part of the text.

* `a` to `z` and `0` to `9` are themselves, a space is `Y`. Folded text has no capitals.
* Every other character is a head (`A` to `F`) that says how many tails (`G` to `X`) follow.

No tail is a head or stands for itself. So where a code is found in another one, it begins and ends
at characters.

Behind the text there are marks, which are no code of any text: `Z` and two tails for each character
that is written as one letter, since the trigrams of one letter do not exist; `W` and tails for the
owner of the message, so that an owner's messages are found among those of all.
"""

from functools import lru_cache
from hashlib import sha256
from itertools import accumulate
from string import ascii_lowercase, digits
from typing import Final

PLAIN: Final = ascii_lowercase + digits + "Y"
"""The letters that are a character by themselves."""

HEADS: Final = "ABCDEF"
_TAILS: Final = "GHIJKLMNOPQRSTUVX"
_TAIL_COUNTS: Final = (2, 3, 3, 3, 4, 5)
# The first number of a character that each head is for.
_FIRSTS: Final = (0, *accumulate(len(_TAILS) ** count for count in _TAIL_COUNTS[:-1]))
_OWNER_TAILS: Final = 6


def encoded(folded: str) -> str:
    """Return the code of a folded text or term, without marks."""
    return folded.translate(_CODES)


def encoded_message(folded: str, user_id: str | None) -> str:
    """Return what is stored and indexed of a message: the code of its text, and its marks."""
    code = encoded(folded)
    marks = "".join([mark for letter, mark in _MARKS.items() if letter in code])
    return code + marks + owner_mark(user_id)


def mark_of(letter: str) -> str:
    """Return the mark of a character that is written as one letter."""
    return _MARKS[letter]


@lru_cache(1024)
def owner_mark(user_id: str | None) -> str:
    """Return the mark of an owner; another one has the same with a chance of 1 : 24 million."""
    if user_id is None:
        return ""
    digest = sha256(user_id.encode()).digest()
    number = int.from_bytes(digest[:8]) % len(_TAILS) ** _OWNER_TAILS
    return "W" + _tails(number, _OWNER_TAILS)


def _tails(number: int, count: int) -> str:
    letters = ""
    for _ in range(count):
        number, tail = divmod(number, len(_TAILS))
        letters = _TAILS[tail] + letters
    return letters


_MARKS: Final = {letter: "Z" + _tails(number, 2) for number, letter in enumerate(PLAIN)}


class _Codes(dict[int, str]):
    """The code of each character, by its number; made when it is first needed."""

    def __missing__(self, number: int) -> str:
        code = _code(number)
        # The letters of the scripts in use; not one of each of a million characters.
        if len(self) < _KNOWN_MAX:
            self[number] = code
        return code


_KNOWN_MAX: Final = 20_000


def _code(number: int) -> str:
    head = max(index for index, first in enumerate(_FIRSTS) if first <= number)
    return HEADS[head] + _tails(number - _FIRSTS[head], _TAIL_COUNTS[head])


_CODES = _Codes({ord(letter): letter for letter in ascii_lowercase + digits} | {ord(" "): "Y"})


@lru_cache(1024)
def grams(code: str) -> tuple[tuple[str, ...], ...]:
    """Return the trigrams that a stored message with this code or mark has.

    It has one of each group. Of a long code some are left out: the index finds candidates, which
    are compared with the whole code.
    """
    if len(code) == 1:
        code = mark_of(code)
    if len(code) == 2:
        # Two letters stand for themselves. What follows is a character, or the first mark.
        return (tuple(code + letter for letter in PLAIN + HEADS + "Z"),)
    found = list(dict.fromkeys(code[i : i + 3] for i in range(len(code) - 2)))
    step = -(-len(found) // _GRAMS_MAX)
    return tuple((gram,) for gram in found[::step])


_GRAMS_MAX: Final = 40
"""More trigrams find hardly fewer candidates, and each is a list to read."""
