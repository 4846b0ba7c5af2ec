"""Read what people write about an agent: its URL, the query of the URL, a chat's `options`.

Each agent has pydantic models for its query and options. These functions fill them, and turn an
error into one line that never repeats a value, because values may be secrets.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, TypeVar
from urllib.parse import parse_qsl, unquote_plus

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bamboo_gateway.agents.allowed import AllowedOptions, refuse_options
from bamboo_gateway.agents.base import AgentConfigError, AgentError
from bamboo_gateway.domain.suggestions import nearest_name

DESCRIPTION_CHARS_MAX = 500
"""The longest description of an agent: a sentence or two of a menu."""

KINDS = "demo:, openai:, python:, http:, https:, agui+http: or agui+https:"
"""The kinds of agents, for errors; `factory` has a case for each."""


@dataclass(frozen=True, slots=True)
class AgentAddress:
    """The parts of an agent's URL: `kind:target?query`.

    Attributes:
        name: The name of the agent in the settings, for messages.
        kind: The part before the first colon, in lower case.
        target: The part between that colon and the question mark, unchanged.
        query: The part after the question mark, unchanged.
    """

    name: str
    kind: str
    target: str
    query: str

    @staticmethod
    def parse(name: str, url: str) -> "AgentAddress":
        """Take `url` apart.

        Raises:
            AgentConfigError: The URL has no kind.
        """
        head, _, query = url.partition("?")
        kind, colon, target = head.partition(":")
        if not colon or not kind:
            raise AgentConfigError(f"agent {name!r}: its URL has no kind; use {KINDS}")
        return AgentAddress(name, kind.lower(), target, query)

    def secret(self, variable: str, *, called: str) -> str | None:
        """Return a secret from the environment, or None when there is none.

        Args:
            variable: The name of the environment variable.
            called: How an error names the variable. `variable` may be the secret itself, written in
                the wrong place.

        Raises:
            AgentConfigError: The value cannot be part of a header.
        """
        value = os.environ.get(variable, "").strip()
        if not (value.isascii() and (value.isprintable() or not value)) or " " in value:
            raise self.refuse(f"the environment variable {called} holds no usable secret")
        return value or None

    def named_secret(self, variable: str | None, member: str) -> str | None:
        """Return the secret in the variable that a member of the query names, if it names one.

        Raises:
            AgentConfigError: The variable is not set, or its value cannot be part of a header.
        """
        if variable is None:
            return None
        secret = self.secret(variable, called=f"that {member} names")
        if secret is None:
            raise self.refuse(f"the environment variable that {member} names is not set")
        return secret

    def refuse(self, reason: str) -> AgentConfigError:
        """Return the error that stops the start and names this agent."""
        return AgentConfigError(f"agent {self.name!r}: {reason}")


class Options(BaseModel):
    """Base of the models for queries and chat options."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class AgentQuery(Options):
    """The members that the query of every agent's URL may have.

    Attributes:
        allow: The `options` that clients may set (module `allowed`); None for the default.
        description: What the agent does, in a sentence, for lists of agents.
        coalesce: As `Agent.coalesce`.
    """

    allow: str | None = None
    description: Annotated[str, Field(max_length=DESCRIPTION_CHARS_MAX)] | None = None
    coalesce: bool = True


VariableName = Annotated[str, Field(pattern=r"\A[A-Za-z_][A-Za-z0-9_]*\z")]
"""The name of an environment variable, in the syntax of Rust's regexes, which pydantic uses."""

_O = TypeVar("_O", bound=Options)


def read_query(model: type[_O], address: AgentAddress) -> _O:
    """Read a URL's query; numbers and booleans are taken from their text.

    Raises:
        AgentConfigError: The query cannot be read, or a member is unknown or wrong.
    """
    try:
        pairs = parse_qsl(address.query, keep_blank_values=True, strict_parsing=bool(address.query))
    except ValueError as error:
        raise address.refuse("its query is not `name=value&name=value`") from error
    members = dict(pairs)
    if len(members) < len(pairs):
        raise address.refuse("its query names something twice")
    try:
        return model.model_validate(members)
    except ValidationError as error:
        raise address.refuse(f"query: {_first(error, model, list_known=True)}") from error


def read_service(model: type[_O], address: AgentAddress) -> tuple[_O, str]:
    """Read the gateway's own members of a service's URL; the service gets the URL without them.

    Returns:
        The members, and the URL's target and query that are left, as in `//host/path?name=value`.

    Raises:
        AgentConfigError: As `read_query`.
    """
    ours: list[str] = []
    theirs: list[str] = []
    for member in filter(None, address.query.split("&")):
        name = unquote_plus(member.partition("=")[0])
        (ours if name in model.model_fields else theirs).append(member)
    query = read_query(model, replace(address, query="&".join(ours)))
    return query, address.target + ("?" + "&".join(theirs) if theirs else "")


def read_options(model: type[_O], options: Mapping[str, object]) -> _O:
    """Read a chat's `options`; types must be right already, as it is JSON.

    Raises:
        AgentError: With code `invalid_option`.
    """
    try:
        return model.model_validate(dict(options), strict=True)
    except ValidationError as error:
        raise AgentError(f"options: {_first(error, model)}", code="invalid_option") from error


def check_values(model: type[Options], options: Mapping[str, object]) -> None:
    """Refuse options whose values the agent cannot use.

    Raises:
        InvalidInput: With code `option-refused`; it names the first of them.
    """
    try:
        model.model_validate(dict(options), strict=True)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False, include_context=False)[0]
        name = str(details["loc"][0])[:64] if details["loc"] else ""
        problem = {"loc": ["body", "options", name], "msg": details["msg"]}
        raise refuse_options(f"{name!r}: {details['msg']}.", [problem]) from error


def read_allowed(
    address: AgentAddress, text: str | None, default: AllowedOptions, known: Iterable[str] | None
) -> AllowedOptions:
    """Read `allow` from an agent's query.

    Args:
        address: The agent's URL.
        text: The value of `allow`; None if the query has none.
        default: The options that clients may set then.
        known: The options that the agent knows; None if it accepts any.

    Raises:
        AgentConfigError: The value cannot be read.
    """
    if text is None:
        return default
    try:
        return AllowedOptions.parse(text, known)
    except ValueError as error:
        raise address.refuse(f"query: allow: {error}") from error


def _first(error: ValidationError, model: type[Options], *, list_known: bool = False) -> str:
    details = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(str(part) for part in details["loc"])
    if details["type"] == "extra_forbidden":
        nearest = nearest_name(place[:64], model.model_fields)
        hint = f"; did you mean {nearest!r}?" if nearest else "."
        known = f" Known are: {', '.join(sorted(model.model_fields))}." if list_known else ""
        return f"{place[:64]!r} is not known here{hint}{known}"
    return f"{place}: {details['msg']}" if place else details["msg"]
