"""Short texts for lists: a session's preview, and the title that its first message gives it."""

import re
import unicodedata
from typing import Any, Final

from bamboo_gateway.domain.messages import Message

PREVIEW_CHARS_MAX: Final = 120
"""The longest preview: a line or two of a list."""

TITLE_CHARS_MAX: Final = 60
"""The longest title that a message gives: as much as the list of a narrow window shows."""

_TITLE_CHARS_MIN: Final = 20
"""A title is not cut behind a word when that would leave less of it."""

_CLUSTER_CHARS_MAX: Final = 16
"""The most characters that are taken off so that none is cut in parts. An emoji of a family has
seven; a letter may carry any number of marks, and is cut then."""

_WORD: Final = re.compile(r"\S+")
_UNSHOWN: Final = re.compile("[\0-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
"""Controls, and the marks that turn the direction of what stands after them in a list."""
_JOINER: Final = "\N{ZERO WIDTH JOINER}"
_EXTENDING: Final = ("Mn", "Me", "Mc")


def preview_of(message: dict[str, Any]) -> str | None:
    """Return the preview that a message gives its session; None if it gives none.

    Only what a person or the assistant says is shown: no reasoning, no arguments or results of
    tools, no instructions.
    """
    if message["role"] not in ("user", "assistant"):
        return None
    try:
        text = Message.text_of(message["content"])
    except (AttributeError, KeyError, TypeError):
        return None  # a log may have messages of a shape that is not known
    return shortened(text, PREVIEW_CHARS_MAX) or None


def title_of(text: str) -> str | None:
    """Return the title that a text gives its session, cut behind a word; None if it has none."""
    whole = shortened(text, TITLE_CHARS_MAX + 1)
    short = shortened(whole, TITLE_CHARS_MAX)
    if len(whole) > len(short):
        before, space, _ = whole.rpartition(" ")
        # A text without spaces (Chinese, an address) is cut where the room ends.
        if space and _TITLE_CHARS_MIN <= len(before) <= TITLE_CHARS_MAX:
            short = before
    return short or None


def shortened(text: str, chars_max: int) -> str:
    """Return the first characters of a text, with each whitespace as one space.

    Characters that belong together (a letter and its accents, the parts of an emoji) stay together.
    The cost is that of the answer, and not of the text, unless that is nothing but whitespace.
    """
    words: list[str] = []
    length = 0
    for match in _WORD.finditer(text):
        start = match.start()
        # One more than there is room for shows whether the cut is inside a character.
        word = _UNSHOWN.sub("", text[start : min(match.end(), start + 2 * chars_max)])
        if not word:
            continue
        words.append(word)
        length += len(word) + 1
        if length > chars_max + 1:
            break
    return _cut(" ".join(words), chars_max).rstrip()


def _cut(text: str, chars_max: int) -> str:
    if len(text) <= chars_max:
        return text
    end = chars_max
    while end > max(0, chars_max - _CLUSTER_CHARS_MAX) and _are_joined(text[end - 1], text[end]):
        end -= 1
    return text[: end or chars_max]


def _are_joined(before: str, after: str) -> bool:
    """Return whether two characters are shown as one."""
    return (
        _JOINER in (before, after)
        or unicodedata.category(after) in _EXTENDING
        or "\N{VARIATION SELECTOR-1}" <= after <= "\N{VARIATION SELECTOR-16}"
        or "\N{EMOJI MODIFIER FITZPATRICK TYPE-1-2}"
        <= after
        <= "\N{EMOJI MODIFIER FITZPATRICK TYPE-6}"
    )
