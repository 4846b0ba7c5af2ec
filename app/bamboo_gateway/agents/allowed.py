"""The `options` of a chat that clients may set: `allow=` in an agent's URL.

    allow=temperature:0..1,max_tokens:..4096,stop,model:small|large

Names are separated by commas. A colon and the allowed values may follow a name:

| | |
|---|---|
| `stop` | any value that the agent takes |
| `temperature:0..1` | a number from 0 to 1; either end may be left out |
| `model:small|large` | one of these; `true`, `false` and numbers are written as in JSON |
| `*` | every option that the agent knows; names beside it keep their bounds |

`allow=` without a name allows nothing. An agent without `allow` has the default of its kind.

Options come from anybody who may chat, and an agent acts with the operator's keys and prompts. So
an option that is not allowed is refused by its name and never silently dropped: the chat is
answered with 422 before anything is stored.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from typing_extensions import override

from bamboo_gateway.domain.codec import decode, encode
from bamboo_gateway.domain.errors import InvalidInput

_NUMBER = r"-?\d+(?:\.\d+)?"
_RANGE = re.compile(rf"(?P<low>{_NUMBER})?\.\.(?P<high>{_NUMBER})?")

_NAME_CHARS_MAX = 64
"""The most characters of an option's name that an error repeats; clients may send long ones."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The allowed values of one option; without a member set, any value.

    Attributes:
        low: The smallest number.
        high: The largest number.
        choices: The values, strings as they are and others as JSON.
    """

    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()

    def admit(self, value: object) -> bool:
        """Return whether the value is within these bounds."""
        if self.choices:
            return (value if isinstance(value, str) else encode(value).decode()) in self.choices
        if self.low is None and self.high is None:
            return True
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            return False
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    def narrowed(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        """Return the JSON Schema of the values that are within these bounds and fit `schema`."""
        found = dict(schema)
        if self.choices:
            values = [value for choice in self.choices for value in _values_of(choice)]
            if kinds := _TYPES.get(found.get("type", "")):
                values = [value for value in values if type(value) in kinds]
            return found | {"enum": values}
        if self.low is None and self.high is None:
            return found
        found.setdefault("type", "number")
        if self.low is not None:
            found["minimum"] = max(self.low, found.get("minimum", self.low))
        if self.high is not None:
            found["maximum"] = min(self.high, found.get("maximum", self.high))
        return found

    @override
    def __str__(self) -> str:
        if self.choices:
            return ", ".join(self.choices)
        match self.low, self.high:
            case None, None:
                return ""
            case low, None:
                return f"at least {low:.15g}"
            case None, high:
                return f"at most {high:.15g}"
            case low, high:
                return f"from {low:.15g} to {high:.15g}"


class AllowedOptions:
    """The names that clients may set, each with its bounds.

    Args:
        bounds: The bounds by name.
        others: Whether names that are not in `bounds` are allowed too.
    """

    def __init__(self, bounds: Mapping[str, Bounds], *, others: bool = False) -> None:
        self._bounds = dict(bounds)
        self._others = others

    @staticmethod
    def parse(text: str, known: Iterable[str] | None = None) -> "AllowedOptions":
        """Read the value of `allow`.

        Args:
            text: What the operator wrote.
            known: The names that the agent knows; None if it accepts any name.

        Raises:
            ValueError: The text cannot be used; the message names the part.
        """
        names = None if known is None else frozenset(known)
        bounds: dict[str, Bounds] = {}
        others = False
        for part in text.split(",") if text.strip() else ():
            name, colon, limits = (piece.strip() for piece in part.partition(":"))
            if name == "*":
                if colon:
                    raise ValueError("`*` takes no bounds")
                others = True
                continue
            if not name:
                raise ValueError("a name is empty")
            if names is not None and name not in names:
                raise ValueError(
                    f"{name[:_NAME_CHARS_MAX]!r} is no option of this agent; its options are "
                    + ", ".join(sorted(names))
                )
            if name in bounds:
                raise ValueError(f"{name[:_NAME_CHARS_MAX]!r} is named twice")
            bounds[name] = _bounds_of(name, limits) if colon else Bounds()
        if others and names is not None:
            return AllowedOptions({name: bounds.get(name, Bounds()) for name in sorted(names)})
        return AllowedOptions(bounds, others=others)

    def __contains__(self, name: str) -> bool:
        """Return whether clients may set this option, to some value."""
        return self._others or name in self._bounds

    def check(self, options: Mapping[str, Any]) -> None:
        """Refuse options that are not allowed, all in one error.

        Raises:
            InvalidInput: With code `option-refused`; `errors` lists each of them.
        """
        errors = []
        for name, value in options.items():
            bounds = self._bounds.get(name)
            if bounds is None:
                if self._others:
                    continue
                reason = "clients may not set this option"
            elif bounds.admit(value):
                continue
            else:
                reason = f"must be {'one of ' if bounds.choices else ''}{bounds}"
            errors.append({"loc": ["body", "options", name[:_NAME_CHARS_MAX]], "msg": reason})
        if errors:
            first = errors[0]
            raise refuse_options(f"{first['loc'][-1]!r}: {first['msg']}. {self}", errors)

    def json_schema(self, known: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the JSON Schema of the options that clients may set.

        Args:
            known: The schemas of the options that the agent knows, from pydantic; None if it
                accepts any.
        """
        properties = {
            name: bounds.narrowed(_plain_schema((known or {}).get(name, {})))
            for name, bounds in sorted(self._bounds.items())
        }
        return {
            "type": "object",
            "properties": properties,
            "additionalProperties": self._others,
        }

    @override
    def __str__(self) -> str:
        """Return a sentence that lists the options clients may set."""
        if self._others:
            return "Clients may set any other option."
        if not self._bounds:
            return "Clients may set no option of this agent."
        named = (f"{name} ({limits})" if (limits := str(bounds)) else name
                 for name, bounds in self._bounds.items())  # fmt: skip
        return f"Clients may set: {', '.join(named)}."


def refuse_options(reason: str, errors: list[dict[str, Any]]) -> InvalidInput:
    """Return the error that refuses a chat for its options."""
    return InvalidInput(f"Option {reason}", code="option-refused", errors=errors)


def _bounds_of(name: str, text: str) -> Bounds:
    if text == "..":
        raise ValueError(f"{name!r}: write a number before or after `..`")
    if (range_ := _RANGE.fullmatch(text)) is not None:
        low, high = (None if end is None else float(end) for end in range_.group("low", "high"))
        if low is not None and high is not None and low > high:
            raise ValueError(f"{name!r}: {text} is an empty range")
        return Bounds(low, high)
    choices = tuple(choice.strip() for choice in text.split("|"))
    if ".." in text or not all(choices):
        raise ValueError(f"{name!r}: write a range of numbers like `0..1`, or choices like `a|b`")
    return Bounds(choices=choices)


_TYPES = {
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
}


def _values_of(choice: str) -> list[Any]:
    """Return the values that a choice admits: its text, and what it is as JSON."""
    try:
        value = decode(choice.encode())
    except ValueError:
        return [choice]
    is_itself = not isinstance(value, str) and encode(value).decode() == choice
    return [choice, value] if is_itself else [choice]


def _plain_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema without what pydantic adds: the title, the default, and null for unset."""
    kept = {name: value for name, value in schema.items() if name not in ("title", "default")}
    choices = [one for one in kept.pop("anyOf", ()) if one.get("type") != "null"]
    if len(choices) == 1:
        kept |= choices[0]
    elif choices:
        kept["anyOf"] = choices
    if isinstance(pattern := kept.get("pattern"), str):
        # The anchors of JSON Schema's patterns, which are JavaScript's.
        kept["pattern"] = pattern.replace(r"\A", "^").replace(r"\z", "$")
    return kept


NO_OPTIONS = AllowedOptions({})
"""No options: the default for agents with the user's own code."""

ANY_OPTIONS = AllowedOptions({}, others=True)
"""All options, for agents that a program passes to `SessionManager`: it decides who may chat."""
