"""The answers, for the OpenAPI document."""

from typing import Any, Literal

from pydantic import ConfigDict, RootModel

from bamboo_gateway.api.schemas.fields import Answer


class UiMessageShown(Answer):
    """A message of the AI SDK. Its parts are those of the client's version."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)

    id: str
    role: Literal["system", "user", "assistant"]
    parts: list[dict[str, Any]]
    metadata: dict[str, Any] = {}


class UiMessageList(RootModel[list[UiMessageShown]]):
    """The messages of a path, in order."""

    model_config = ConfigDict(defer_build=True)
