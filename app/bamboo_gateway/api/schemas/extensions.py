"""Extension data: as clients send it, and as it is answered."""

import re
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field

from bamboo_gateway.api.schemas.fields import Described, ExtensionData, Input, Name

# Of Unicode also those characters that end a line for some readers.
_NAME_WITHOUT: Final = r"\u0000-\u001f\u007f-\u009f\u2028\u2029"


def _without_controls(name: str) -> str:
    if re.search(f"[{_NAME_WITHOUT}]", name):
        raise ValueError("an extension's name holds no control character, and no line end")
    return name


ExtensionName = Annotated[
    Name,
    AfterValidator(_without_controls),
    Field(json_schema_extra={"pattern": f"^[^{_NAME_WITHOUT}]+$"}),
]


class ExtensionStateInput(Input):
    """The state of one extension; its name is in the path or in the list's entry."""

    config: ExtensionData = Field(default_factory=dict)
    enabled: bool = True


class NamedExtensionInput(ExtensionStateInput):
    """An entry of `enabled_extensions`."""

    name: ExtensionName


class TodoInput(Input):
    """The todo list."""

    content: Annotated[str, Field(max_length=100_000)]


class ExtensionDataInput(Input):
    """ExtensionData, whole: members that are absent become empty."""

    enabled_extensions: Annotated[list[NamedExtensionInput], Field(max_length=100)] = Field(
        default_factory=list
    )
    todo_state: TodoInput | None = None
    custom: ExtensionData = Field(default_factory=dict)


class ExtensionDataPatch(Input):
    """A JSON merge patch of ExtensionData; lists are replaced whole."""

    enabled_extensions: Annotated[list[NamedExtensionInput], Field(max_length=100)] | None = None
    todo_state: dict[str, Any] | None = None
    custom: dict[str, Any] | None = None


class ExtensionState(Described):
    """The state of one extension."""

    name: str
    config: dict[str, Any]
    enabled: bool


class TodoState(Described):
    """The session's todo list, as its agent or its user writes it."""

    content: str


class ExtensionDataAnswer(Described):
    """ExtensionData: which extensions are enabled, the todo list, and custom values."""

    enabled_extensions: list[ExtensionState]
    todo_state: TodoState | None
    custom: dict[str, Any]
