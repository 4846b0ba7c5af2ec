"""Tools that a client brings with a chat: the agent may call them, and the client runs them.

Each is `{"name", "description"?, "parameters"}`, where `parameters` is the JSON Schema of the
arguments. A call of such a tool has only a `tool_start`; its result is the tool message that the
client sends next. Protocols other than the gateway's own have a place for such tools; a `Chat` has
them in `client_tools`. They are kept in the log while a run waits that gets them.
"""

from collections.abc import Sequence
from typing import Any, NotRequired, TypedDict

from bamboo_gateway.domain.codec import encode, nests_deeper
from bamboo_gateway.domain.errors import InvalidInput
from bamboo_gateway.domain.limits import (
    CLIENT_TOOL_LEVELS_MAX,
    CLIENT_TOOL_NAME_CHARS_MAX,
    CLIENT_TOOLS_BYTES_MAX,
    CLIENT_TOOLS_MAX,
)


class ClientTool(TypedDict):
    """A tool of the client's."""

    name: str
    description: NotRequired[str]
    parameters: dict[str, Any]


ClientTools = tuple[ClientTool, ...]

_MEMBERS = frozenset(ClientTool.__annotations__)


def check_client_tools(tools: Sequence[Any]) -> None:
    """Refuse tools that are none, or that are too many or too large.

    Raises:
        InvalidInput: With code `invalid-client-tools`; its detail names the first wrong tool.
    """
    if len(tools) > CLIENT_TOOLS_MAX:
        raise _refused(f"There are {len(tools)} tools; {CLIENT_TOOLS_MAX} are allowed.")
    names: set[str] = set()
    for at, tool in enumerate(tools):
        if (problem := _problem_of(tool, names)) is not None:
            raise _refused(f"Tool {at}: {problem}.", at)
        names.add(tool["name"])
    if tools and (size := len(encode(list(tools)))) > CLIENT_TOOLS_BYTES_MAX:
        raise _refused(
            f"The tools have {size} bytes as JSON; {CLIENT_TOOLS_BYTES_MAX} are allowed."
        )


def _problem_of(tool: Any, names: set[str]) -> str | None:
    if not isinstance(tool, dict):
        return "it is not an object"
    name = tool.get("name")
    if not isinstance(name, str) or not 1 <= len(name) <= CLIENT_TOOL_NAME_CHARS_MAX:
        return f"`name` is not a text of 1 to {CLIENT_TOOL_NAME_CHARS_MAX} characters"
    if name in names:
        return f"another tool is named {name!r}"
    if not isinstance(tool.get("description", ""), str):
        return "`description` is not a text"
    if not isinstance(tool.get("parameters"), dict):
        return "`parameters` is not a JSON Schema"
    if nests_deeper(tool["parameters"], CLIENT_TOOL_LEVELS_MAX):
        return f"`parameters` nests deeper than {CLIENT_TOOL_LEVELS_MAX} levels"
    if not tool.keys() <= _MEMBERS:
        return "it has a member that is none of `name`, `description`, `parameters`"
    return None


def _refused(detail: str, at: int | None = None) -> InvalidInput:
    place: list[str | int] = ["body", "tools"] if at is None else ["body", "tools", at]
    return InvalidInput(detail, code="invalid-client-tools", errors=[{"loc": place, "msg": detail}])
