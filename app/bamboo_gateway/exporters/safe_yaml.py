"""Read YAML from untrusted sources as JSON values.

This builds values from the parser's events, without recursion, tags or Python objects: only what
JSON has as well. It bounds the bytes, the depth, and the size that aliases add (the "billion
laughs" document of a kilobyte would expand to gigabytes). Plain scalars have the meaning of YAML
1.2's core schema, so `no` and `2026-11-20` are strings.
"""

import re
from math import isfinite
from typing import Any, Final

import yaml

from bamboo_gateway.domain.errors import InvalidInput, TooLarge
from bamboo_gateway.domain.limits import MiB

YAML_BYTES_MAX: Final = 64 * MiB
"""The largest YAML document: about 15 seconds of parsing. Export larger sessions as JSON."""

YAML_DEPTH_MAX: Final = 210
"""The deepest nesting: a little more than the members inside may have."""

ALIASED_WEIGHT_MAX: Final = 1 * MiB
"""The most characters that aliases may add. Our exports have none; an editor may make some."""

INT_CHARS_MAX: Final = 40
"""The longest number: more than 64 bits need, with leading zeros."""

_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, if it was built
_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_TAGS: Final = frozenset(
    f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null")
) | {"!"}
_INT_RANGE: Final = range(-(2**63), 2**64)
"""The range of integers that the encoder accepts."""


def load_yaml(text: str) -> Any:
    """Read one YAML document into JSON values.

    Raises:
        InvalidInput: `data` is not YAML, or has what JSON cannot hold; `detail` names the line.
        TooLarge: `data` is larger than `YAML_BYTES_MAX`.
    """
    if len(text) > YAML_BYTES_MAX:
        raise TooLarge(f"The YAML document is larger than {YAML_BYTES_MAX} bytes. Use JSON.")
    builder = _Builder()
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            builder.take(event)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "it holds characters that YAML does not allow"
        raise InvalidInput(f"Not YAML{line}: {problem}.") from error
    return builder.document


class _Open:
    """A mapping or sequence that has begun. `weight` is its size in characters."""

    __slots__ = ("anchor", "key", "value", "weight")

    def __init__(self, value: dict[str, Any] | list[Any], anchor: str | None) -> None:
        self.value = value
        self.anchor = anchor
        self.key: str | None = None
        self.weight = 1


class _Builder:
    """Builds the value of a document from the parser's events."""

    def __init__(self) -> None:
        self.document: Any = None
        self._documents = 0
        self._open: list[_Open] = []
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._aliased = 0

    def take(self, event: Any) -> None:
        """Handle the next event of the parser."""
        match event:
            case yaml.ScalarEvent():
                self._check_tag(event)
                weight = 1 + len(event.value)
                if self._expects_key():
                    # As it is written, since JSON keys are strings.
                    self._value(_clean(event.value, event), weight, event)
                    return
                value = _scalar(event)
                if event.anchor:
                    self._anchors[event.anchor] = value, weight
                self._value(value, weight, event)
            case yaml.MappingStartEvent():
                self._begin({}, event)
            case yaml.SequenceStartEvent():
                self._begin([], event)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                ended = self._open.pop()
                if ended.anchor:
                    self._anchors[ended.anchor] = ended.value, ended.weight
                self._value(ended.value, ended.weight, event)
            case yaml.AliasEvent():
                self._alias(event)
            case yaml.DocumentStartEvent():
                self._documents += 1
                if self._documents > 1:
                    raise _refused(event, "a second document")
            case _:
                pass

    def _expects_key(self) -> bool:
        return bool(
            self._open and isinstance(self._open[-1].value, dict) and self._open[-1].key is None
        )

    def _begin(self, value: dict[str, Any] | list[Any], event: Any) -> None:
        self._check_tag(event)
        if self._expects_key():
            raise _refused(event, "a key that is not a string")
        if len(self._open) >= YAML_DEPTH_MAX:
            raise _refused(event, f"nesting deeper than {YAML_DEPTH_MAX}")
        self._open.append(_Open(value, event.anchor))

    def _alias(self, event: Any) -> None:
        # An anchor is defined when its value has ended, so that no value can contain itself.
        if event.anchor not in self._anchors:
            raise _refused(event, "an alias without its anchor before it")
        value, weight = self._anchors[event.anchor]
        self._aliased += weight
        if self._aliased > ALIASED_WEIGHT_MAX:
            raise _refused(event, "aliases that repeat too much")
        if self._expects_key() and not isinstance(value, str):
            raise _refused(event, "a key that is not a string")
        self._value(value, weight, event)

    def _value(self, value: Any, weight: int, event: Any) -> None:
        if not self._open:
            self.document = value
            return
        parent = self._open[-1]
        parent.weight += weight
        if isinstance(parent.value, list):
            parent.value.append(value)
        elif parent.key is None:
            if value in parent.value:
                raise _refused(event, "a key that occurs twice in one mapping")
            parent.key = value
        else:
            parent.value[parent.key] = value
            parent.key = None

    def _check_tag(self, event: Any) -> None:
        if event.tag is not None and event.tag not in _TAGS:
            raise _refused(event, "a tag; only plain data is read")


def _scalar(event: Any) -> Any:
    text: str = event.value
    if not event.implicit[0]:
        kind = (event.tag or "").rpartition(":")[2]
        if kind in {"", "!", "str"}:
            return _clean(text, event)
    match text:
        case "" | "~" | "null" | "Null" | "NULL":
            return None
        case "true" | "True" | "TRUE":
            return True
        case "false" | "False" | "FALSE":
            return False
        case _ if _INT.fullmatch(text):
            # The length first, because int() raises its own error for thousands of digits.
            if len(text) > INT_CHARS_MAX or (number := int(text)) not in _INT_RANGE:
                raise _refused(event, "a whole number beyond 64 bits")
            return number
        case _ if _FLOAT.fullmatch(text):
            if not isfinite(real := float(text)):
                raise _refused(event, "a number that is too large")
            return real
        case _:
            return _clean(text, event)


def _clean(text: str, event: Any) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise _refused(event, "half of a surrogate pair") from error
    return text


def _refused(event: Any, what: str) -> InvalidInput:
    return InvalidInput(f"YAML line {event.start_mark.line + 1}: {what} is not accepted.")
