"""Write `types.py` from `openapi/openapi.json`: a TypedDict for each schema, unions for choices.

    python clients/python/tools/types_from_openapi.py

`make clients` does it, and a test fails when the file is not what this program writes.
"""

import json
import keyword
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[3]
_HEAD = '''\
"""The shapes of the gateway's JSON, made from its OpenAPI document. Do not edit: `make clients`."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict
'''
_LINE = 96
_SIMPLE = {
    "string": "str",
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "null": "None",
}


def source_of(document: Mapping[str, Any]) -> str:
    """Return the module's source for an OpenAPI document."""
    schemas: dict[str, Any] = document["components"]["schemas"]
    classes = [_class(name, one) for name, one in sorted(schemas.items()) if "properties" in one]
    others = {name: one for name, one in sorted(schemas.items()) if "properties" not in one}
    unions = [f"{name} = {_type(one)}\n" + _doc(one, "") for name, one in others.items()]
    return "\n\n".join([_HEAD, *classes, "", "\n".join(unions)]).replace("\n\n\n\n", "\n\n\n")


def _class(name: str, schema: Mapping[str, Any]) -> str:
    required = set(schema.get("required", ()))
    members = {
        member: _type(one) if member in required else f"NotRequired[{_type(one)}]"
        for member, one in schema["properties"].items()
    }
    if any(not member.isidentifier() or keyword.iskeyword(member) for member in members):
        pairs = "".join(f'    "{member}": "{kind}",\n' for member, kind in members.items())
        pairs = pairs.replace('Literal["', "Literal['").replace('"]"', "']\"")
        return f'{name} = TypedDict("{name}", {{\n{pairs}}})\n' + _doc(schema, "")
    lines = [f"class {name}(TypedDict):\n", _doc(schema, "    ")]
    for member, kind in members.items():
        about = schema["properties"][member].get("description")
        lines.append(f"    {member}: {kind}\n")
        if about:
            lines.append(_doc({"description": about}, "    "))
    return "".join(lines)


def _type(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if "const" in schema:
        return f"Literal[{_literal(schema['const'])}]"
    if "enum" in schema:
        return f"Literal[{', '.join(map(_literal, schema['enum']))}]"
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            return " | ".join(dict.fromkeys(map(_type, schema[choice])))
    match schema.get("type"):
        case "array":
            return f"list[{_type(schema['items'])}]" if "items" in schema else "list[Any]"
        case "object":
            values = schema.get("additionalProperties")
            return f"dict[str, {_type(values)}]" if isinstance(values, dict) else "dict[str, Any]"
        case str(kind):
            return _SIMPLE[kind]
        case _:
            return "Any"


def _literal(value: object) -> str:
    return json.dumps(value) if isinstance(value, str) else repr(value)


def _doc(schema: Mapping[str, Any], indent: str) -> str:
    text = " ".join(schema.get("description", "").split())
    if not text:
        return ""
    text = text.replace("\\", "\\\\").replace('"""', "'''")
    if text.endswith('"'):
        text += " "
    wrapped = textwrap.wrap(text, _LINE - len(indent))
    if len(wrapped) == 1:
        return f'{indent}"""{wrapped[0]}"""\n'
    return f'{indent}"""' + f"\n{indent}".join(wrapped) + f'\n{indent}"""\n'


def made() -> tuple[Path, str]:
    """Return the module's file, and the source that it must have."""
    document = json.loads((REPOSITORY / "openapi" / "openapi.json").read_text("utf-8"))
    package = REPOSITORY / "clients" / "python" / "src" / "bamboo_gateway_client"
    return package / "types.py", source_of(document)


def main() -> None:
    """Write the file."""
    path, source = made()
    path.write_text(source, "utf-8")


if __name__ == "__main__":
    main()
