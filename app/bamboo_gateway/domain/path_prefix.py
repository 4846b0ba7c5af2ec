"""Path prefixes: which ones there can be, wherever they come from."""

import re
from typing import Final

_PREFIX_CHARS_MAX: Final = 256
"""Every URL that the gateway makes has it once more; people write a word or two."""

# Characters that no URL, header or cookie has to escape (RFC 3986, 2.3).
_PREFIX: Final = re.compile(r"(/[A-Za-z0-9._~-]+)+")

OWN_SEGMENTS: Final = frozenset({"api", "docs", "health", "metrics"})
"""The first segments of the gateway's own paths. A prefix that begins so would be taken from them:
`/api/v1/chat` without the prefix `/api` is no path of the gateway."""


def check_prefix(text: str) -> str:
    """Return a path prefix like `/bamboo` or `/a/b`.

    Raises:
        ValueError: It is none; the message says what is wrong and does not repeat it.
    """
    segments = text.split("/")[1:]
    if not text.startswith("/"):
        raise ValueError("a prefix begins with a slash, like /bamboo")
    if text.endswith("/"):
        raise ValueError("a prefix ends without a slash, like /bamboo")
    if len(text) > _PREFIX_CHARS_MAX:
        raise ValueError(f"a prefix has at most {_PREFIX_CHARS_MAX} characters")
    if _PREFIX.fullmatch(text) is None or {".", ".."} & set(segments):
        raise ValueError(
            "a prefix has segments of letters, digits and `-._~`, none empty, `.` or `..`, "
            "like /bamboo or /a/b"
        )
    if segments[0] in OWN_SEGMENTS:
        raise ValueError(
            f"the gateway's own paths begin with /{segments[0]}; choose another prefix"
        )
    return text
