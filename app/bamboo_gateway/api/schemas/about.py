"""The gateway itself: its front page, and its health."""

from typing import Any, Literal

from pydantic import ConfigDict

from bamboo_gateway.api.schemas.fields import Answer, Described


class About(Described):
    """What this is, and where to go. Every value of `links` is a path of this gateway."""

    name: str
    description: str
    version: str | None
    links: dict[str, str]


class Health(Answer):
    """Whether the gateway lives, or is ready."""

    status: Literal["ok", "ready", "unavailable"]
    detail: str


class OpenapiDocument(Described):
    """An OpenAPI document."""

    model_config = ConfigDict(extra="allow")

    openapi: str
    info: dict[str, Any]
    paths: dict[str, Any]
