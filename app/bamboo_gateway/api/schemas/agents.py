"""Agents: what clients see of who answers."""

from typing import Annotated, Any

from pydantic import Field

from bamboo_gateway.api.schemas.fields import Described


class AgentInfo(Described):
    """An agent that a chat may name."""

    name: str
    kind: Annotated[str, Field(description="`openai`, `http`, `https`, `python` or `demo`.")]
    model: Annotated[
        str | None, Field(description="The model that answers, unless `options` name another one.")
    ]
    description: str | None
    is_default: Annotated[bool, Field(description="It answers chats that name no agent.")]
    options: Annotated[
        dict[str, Any], Field(description="The JSON Schema of the `options` that a chat may set.")
    ]


class AgentList(Described):
    """The agents, by name."""

    agents: list[AgentInfo]
