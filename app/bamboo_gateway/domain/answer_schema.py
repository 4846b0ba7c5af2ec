"""The JSON Schema of an answer: which schemas are accepted, and whether an answer fits.

A schema comes from an agent, often from a model, and an answer from anybody who may answer. So
neither may cost much:

* a schema is small, flat, and refers only to parts of itself (`#/$defs/…`), never in a circle;
  with every reference written out, it has a bounded number of parts. Nothing is fetched.
* `pattern` is matched by an engine without backtracking, in time linear in the text. Patterns that
  need more (look-around, back references) are refused with the schema.
* an answer is small, and nests no deeper than a schema may.

The dialect is 2020-12, as pydantic and OpenAPI 3.1 write it. `format` is checked.
"""

from typing import Any, Final
from urllib.parse import unquote

import jsonschema_rs

from bamboo_gateway.domain.codec import encode, nests_deeper
from bamboo_gateway.domain.errors import InvalidEvent
from bamboo_gateway.domain.events import RequestKind
from bamboo_gateway.domain.limits import KiB

SCHEMA_BYTES_MAX: Final = 32 * KiB
"""A form with some hundred fields. The schema is an event of the log, and clients render it."""

ANSWER_BYTES_MAX: Final = 64 * KiB
"""An answer is typed by people. Files go elsewhere, and the answer names them."""

DEPTH_MAX: Final = 32
"""How deep schemas and answers nest."""

_PARTS_MAX = 1000
"""The parts of a schema with all references written out: what one value may be held against."""

_PROBLEMS_MAX = 20
"""The problems of one answer that a client is told."""

_PATTERN_BYTES_MAX = 256 * KiB
"""The memory of one compiled pattern."""

_REFUSED = ("$id", "$anchor", "$dynamicRef", "$dynamicAnchor", "$recursiveRef")

_APPROVAL: Final = {
    "type": "object",
    "properties": {"approved": {"type": "boolean"}, "reason": {"type": "string"}},
    "required": ["approved"],
    "additionalProperties": False,
}
_OF_KIND: Final[dict[RequestKind, dict[str, Any]]] = {
    "approval": _APPROVAL,
    "question": {"type": "string"},
    "form": {"type": "object"},
}
"""The schema of an answer to a request that has none of its own."""


def check_schema(schema: dict[str, Any]) -> None:
    """Refuse a schema that cannot be used, or costs too much.

    Raises:
        InvalidEvent: It says what is wrong.
    """
    if nests_deeper(schema, DEPTH_MAX):
        raise _refused(f"it nests deeper than {DEPTH_MAX} levels")
    try:
        size = len(encode(schema))
    except TypeError as error:
        raise _refused("JSON cannot hold it") from error
    if size > SCHEMA_BYTES_MAX:
        raise _refused(f"it is larger than {SCHEMA_BYTES_MAX} bytes")
    _Size(schema).of(schema, ())
    try:
        _validator(schema)
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        raise _refused(str(getattr(error, "message", error))[:300]) from error


def problems_of(
    kind: RequestKind, schema: dict[str, Any] | None, answer: Any
) -> list[dict[str, Any]]:
    """Return what is wrong with an answer, as entries `{"loc": […], "msg": …}`; none when it fits.

    Args:
        kind: The kind of the request.
        schema: The request's own schema, which `check_schema` has accepted.
        answer: The answer.
    """
    if nests_deeper(answer, DEPTH_MAX):
        return [{"loc": [], "msg": f"nests deeper than {DEPTH_MAX} levels"}]
    if len(encode(answer)) > ANSWER_BYTES_MAX:
        return [{"loc": [], "msg": f"larger than {ANSWER_BYTES_MAX} bytes"}]
    found = _validator(schema or _OF_KIND[kind]).iter_errors(answer)
    problems = []
    for error in found:
        problems.append({"loc": list(error.instance_path), "msg": error.message[:300]})
        if len(problems) == _PROBLEMS_MAX:
            break
    return problems


def _validator(schema: dict[str, Any]) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator(
        schema,
        offline=True,
        validate_formats=True,
        mask="the value",
        pattern_options=jsonschema_rs.RegexOptions(
            size_limit=_PATTERN_BYTES_MAX, dfa_size_limit=_PATTERN_BYTES_MAX
        ),
    )


class _Size:
    """Counts the parts of a schema with its references written out."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._known: dict[str, int] = {}

    def of(self, part: Any, within: tuple[str, ...]) -> int:
        """Return the number of parts; `within` are the references that lead here."""
        if isinstance(part, list):
            total = 1 + sum(self.of(one, within) for one in part)
        elif isinstance(part, dict):
            for name in _REFUSED:
                if isinstance(part.get(name), str):
                    raise _refused(f"`{name}` is not supported")
            total = 1 + sum(self.of(one, within) for one in part.values())
            if isinstance(ref := part.get("$ref"), str):
                total += self._of_reference(ref, within)
        else:
            total = 0
        if total > _PARTS_MAX:
            raise _refused(f"it has more than {_PARTS_MAX} parts, references included")
        return total

    def _of_reference(self, ref: str, within: tuple[str, ...]) -> int:
        if ref in within:
            raise _refused(f"`$ref` {ref[:100]!r} leads in a circle")
        if ref not in self._known:
            self._known[ref] = self.of(self._named(ref), (*within, ref))
        return self._known[ref]

    def _named(self, ref: str) -> Any:
        if not ref.startswith("#/"):
            raise _refused("`$ref` may only name a part of the schema, like `#/$defs/name`")
        part: Any = self._root
        for step in ref[2:].split("/"):
            name = unquote(step).replace("~1", "/").replace("~0", "~")
            try:
                part = part[int(name)] if isinstance(part, list) else part[name]
            except (KeyError, IndexError, ValueError, TypeError):
                raise _refused(f"`$ref` {ref[:100]!r} names no part of it") from None
        return part


def _refused(what: str) -> InvalidEvent:
    return InvalidEvent(f"input_required: the schema cannot be used: {what}")
