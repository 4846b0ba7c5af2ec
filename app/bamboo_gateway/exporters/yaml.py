r"""YAML without loss, for people who read and edit it: long texts are blocks of lines.

Own code, because the usual emitters need the whole document at once, and write strings that other
YAML versions read as something else (`no`, `1e3`, `2026-11-20`, `0o7`). Here a string is

* plain only if it is a word without a meaning in any version of YAML;
* a literal block (`|`) if it has several lines and nothing that a block would change;
* otherwise double-quoted; characters that YAML 1.1 or 1.2 folds or refuses, or that editors hide
  (controls, NEL, U+2028, bidirectional overrides), are escaped.

Values deeper than `BLOCK_DEPTH_MAX` are written in the flow style, which needs no indentation.
"""

import re
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, ClassVar

from typing_extensions import override

from bamboo_gateway.domain.codec import encode
from bamboo_gateway.exporters.base import DocumentHead, Exporter, JsonObject
from bamboo_gateway.exporters.document import head_members

BLOCK_DEPTH_MAX = 12
"""The deepest indentation: more is unreadable, and grows with the square of the depth."""

KEY_CHARS_MAX = 100
"""YAML refuses implicit keys of more than 1024 characters (YAML 1.2, section 7.4.3)."""

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]{0,99}")
_MEANT = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})
# Characters that need an escape inside quotes, beside those that JSON escapes.
_HIDDEN = re.compile(
    "[\x7f-\xa0\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff0-\ufffb\ufffe\uffff]"
)
# What a literal block would lose or hide: other controls, other line ends, blanks at line ends.
_NOT_BLOCK = re.compile(r"[\x00-\x08\x0b-\x1f]|[ \t]\n|[ \t]\Z|\n\n\Z|\A[ \t\n]")


class YamlExporter(Exporter):
    """Writes the shape of `document` as YAML."""

    format: ClassVar[str] = "yaml"
    media_type: ClassVar[str] = "application/yaml"
    suffix: ClassVar[str] = ".yaml"

    def __init__(self) -> None:
        self._count = 0

    @override
    def begin(self, head: DocumentHead) -> bytes:
        lines: list[str] = []
        _mapping(lines, head_members(head), 0, 0)
        return "\n".join([*lines, "messages:"]).encode()

    @override
    def add(self, messages: Sequence[JsonObject]) -> bytes:
        lines: list[str] = []
        for message in messages:
            _item(lines, message, 0, 0)
        self._count += len(messages)
        return b"".join(b"\n" + line.encode() for line in lines)

    @override
    def end(self) -> bytes:
        empty = b"" if self._count else b" []"
        return b"%b\nmessage_count: %d\n" % (empty, self._count)


def _mapping(lines: list[str], value: Mapping[str, Any], indent: int, depth: int) -> None:
    for key, member in value.items():
        if len(key) <= KEY_CHARS_MAX:
            _node(lines, f"{' ' * indent}{_string(key)}:", member, indent, depth)
        else:
            lines.append(f"{' ' * indent}? {_string(key)}")
            _node(lines, " " * indent + ":", member, indent, depth)


def _item(lines: list[str], value: Any, indent: int, depth: int) -> None:
    before = len(lines)
    if isinstance(value, dict) and value and depth < BLOCK_DEPTH_MAX:
        # The first member follows the dash on its line.
        _mapping(lines, value, indent + 2, depth + 1)
        lines[before] = f"{' ' * indent}- {lines[before][indent + 2 :]}"
    else:
        _node(lines, " " * indent + "-", value, indent, depth)


def _node(lines: list[str], lead: str, value: Any, indent: int, depth: int) -> None:
    """Write a value after `lead`, or on the next lines with more indentation."""
    match value:
        case str() if "\n" in value and not _NOT_BLOCK.search(value) and not _HIDDEN.search(value):
            chomp = "" if value.endswith("\n") else "-"
            lines.append(f"{lead} |2{chomp}")
            lines.append(_indented(value.removesuffix("\n"), " " * (indent + 2)))
        case dict() if value and depth < BLOCK_DEPTH_MAX:
            lines.append(lead)
            _mapping(lines, value, indent + 2, depth + 1)
        case list() if value and depth < BLOCK_DEPTH_MAX:
            lines.append(lead)
            for item in value:
                _item(lines, item, indent + 2, depth + 1)
        case _:
            lines.append(f"{lead} {_flow(value)}")


def _indented(text: str, blank: str) -> str:
    """Indent every line by `blank`, except empty ones; the first and last line are not empty.

    This works on the whole text: many short strings would take fifty times its size.
    """
    empty = f"\n{blank}\n"
    shown = blank + text.replace("\n", "\n" + blank)
    # Twice, because one pass matches only every other one of several in a row.
    return shown.replace(empty, "\n\n").replace(empty, "\n\n")


def _flow(value: Any) -> str:
    match value:
        case str():
            return _string(value)
        case dict():
            members = (f"{_quoted(key)}: {_flow(member)}" for key, member in value.items())
            return "{" + ", ".join(members) + "}"
        case list():
            return "[" + ", ".join(map(_flow, value)) + "]"
        case float():
            return _float(value)
        case _:
            return encode(value).decode()


def _float(value: float) -> str:
    if not isfinite(value):
        return "null"  # as JSON writes it
    # YAML 1.1 reads 1e20 as a string; it needs the dot.
    mantissa, e, exponent = repr(value).partition("e")
    return f"{mantissa}.0e{exponent}" if e and "." not in mantissa else mantissa + e + exponent


def _string(text: str) -> str:
    if _WORD.fullmatch(text) and text.lower() not in _MEANT:
        return text
    return _quoted(text)


def _quoted(text: str) -> str:
    return _HIDDEN.sub(lambda match: f"\\u{ord(match[0]):04x}", encode(text).decode())
