"""What all schemas are made of: their two base classes, and the fields that many share.

The tags of unions are in angle brackets, so that `problems` can leave them out of the place of an
error: a client knows no `<list>`.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, RootModel, model_validator
from pydantic.root_model import RootModelRootType

from bamboo_gateway.api.limits import (
    ITEMS_MAX,
    MEMBERS_MAX,
    NAME_CHARS_MAX,
    OPTIONS_BYTES_MAX,
    PATH_CHARS_MAX,
    TITLE_CHARS_MAX,
    TTL_SECONDS_MAX,
    USER_ID_CHARS_MAX,
)
from bamboo_gateway.domain.codec import encode
from bamboo_gateway.domain.errors import InvalidId
from bamboo_gateway.domain.ids import check_id
from bamboo_gateway.domain.limits import EXTENSION_DATA_BYTES_MAX, METADATA_BYTES_MAX


class Input(BaseModel):
    """The base of everything that clients send: no unknown member, a bound for everything."""

    # Strict: "5" is not a number and 1 is not a boolean. A client that mixes them up gets an error.
    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _few_members(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(value) > MEMBERS_MAX:
            raise ValueError(f"has {len(value)} members, of which most are not known")
        return value


class Described(BaseModel):
    """The base of everything that only the OpenAPI document describes: answers, events, problems.

    Nothing is validated or built with these classes: the bytes of answers come from the session
    manager, and the tests compare every answer with the document. Members are in the contract's
    order.
    """

    # A start needs none of them; pydantic makes what it validates with when the document is asked
    # for.
    model_config = ConfigDict(defer_build=True)


class DescribedUnion(RootModel[RootModelRootType]):
    """The base of the document's unions, as `Described` is of its objects."""

    model_config = ConfigDict(defer_build=True)


class Answer(Described):
    """The base of what clients are answered, where it has no member but those of its class."""

    # An answer has its members with a default too, unless a class says otherwise.
    model_config = ConfigDict(extra="forbid", json_schema_serialization_defaults_required=True)


def _is_id(text: str) -> str:
    try:
        return check_id(text, "valid id")
    except InvalidId as error:
        raise ValueError(error.detail) from error


def _fits(bytes_max: int) -> AfterValidator:
    def check(value: dict[str, Any]) -> dict[str, Any]:
        size = len(encode(value))
        if size > bytes_max:
            raise ValueError(f"has {size} bytes as JSON; {bytes_max} are allowed")
        return value

    return AfterValidator(check)


Id = Annotated[
    str,
    AfterValidator(_is_id),
    Field(json_schema_extra={"pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"}),
]
Name = Annotated[str, Field(min_length=1, max_length=NAME_CHARS_MAX)]
Title = Annotated[str, Field(max_length=TITLE_CHARS_MAX)]
UserId = Annotated[str, Field(min_length=1, max_length=USER_ID_CHARS_MAX)]
WorkingDir = Annotated[str, Field(max_length=PATH_CHARS_MAX)]
Metadata = Annotated[dict[str, Any], _fits(METADATA_BYTES_MAX)]
ExtensionData = Annotated[dict[str, Any], _fits(EXTENSION_DATA_BYTES_MAX)]
Options = Annotated[dict[str, Any], _fits(OPTIONS_BYTES_MAX)]
Ttl = Annotated[int, Field(ge=1, le=TTL_SECONDS_MAX)]
SessionTypeName = Literal["user", "sub_agent", "scheduled"]
StateName = Literal[
    "active", "needs_input", "idle", "disconnected", "closed", "expired", "archived"
]


def no_default(schema: dict[str, Any]) -> None:
    """Take a default out of a schema, where absent means unchanged and not the default."""
    schema.pop("default", None)


# Not `Id`: of many ids a wrong one fails by itself.
SessionIds = Annotated[
    list[Annotated[str, Field(max_length=1000)]], Field(min_length=1, max_length=ITEMS_MAX)
]


class SessionIdsInput(Input):
    """The sessions of a bulk call. The gateway handles each by itself."""

    session_ids: SessionIds
