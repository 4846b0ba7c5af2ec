"""The OpenAPI document, made of the routes."""

from collections.abc import Sequence
from typing import Any, Final

from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic.json_schema import models_json_schema

from bamboo_gateway import RELEASE
from bamboo_gateway.api.direct_route import FAMILY
from bamboo_gateway.api.openapi.responses import PROBLEM_REF, example_problem
from bamboo_gateway.api.problems import MEDIA_TYPE, PROBLEMS
from bamboo_gateway.api.schemas.changes import ChangeEvent, ChangeFrame
from bamboo_gateway.api.schemas.export import ImportedConversation
from bamboo_gateway.api.schemas.posted_events import PostedEvent
from bamboo_gateway.api.schemas.problems import Problem
from bamboo_gateway.api.schemas.streams import JointStreamFrame, StreamEvent, StreamFrame
from bamboo_gateway.api.security.rights import SECURITY_SCHEMES, GuardedRoute, security_of
from bamboo_gateway.domain.codec import encode

_DESCRIPTION: Final = """\
Durable conversations between agents and their front ends.

A *run* is one turn of an agent in a *session*; it goes on when every client has gone. Everything
that happens is an *event* in the session's log, and has a *position* there. A client that comes
back with the last position it has seen gets every later event, once, in order.

The schema `Event` is any event of a log, `StreamEvent` also has the events that only streams send;
`type` is the discriminator of both. Each frame of a `text/event-stream` is a `StreamFrame`; its
`data` is a `StreamEvent` as JSON. Where a body consists of items (`text/event-stream`,
`application/x-ndjson`), `x-oai-itemSchema` is the schema of one item: OpenAPI 3.2 calls it
`itemSchema`.

Errors are `application/problem+json` (RFC 9457); `code` is stable. An unknown path is answered with
404 `not-found`, an unknown method of a known path with 405 `method-not-allowed`.
"""

_RATE_HEADERS: Final = {
    "RateLimit-Policy": {"$ref": "#/components/headers/RateLimitPolicy"},
    "RateLimit": {"$ref": "#/components/headers/RateLimit"},
}

_TAGS: Final = [
    {"name": "chat", "description": "Send a message and have it answered."},
    {"name": "streams", "description": "Follow a session (Server-Sent Events)."},
    {"name": "events", "description": "The log behind everything."},
    {"name": "runs", "description": "The turns of agents."},
    {"name": "inputs", "description": "What agents ask people, and the answers."},
    {"name": "messages", "description": "The history."},
    {"name": "sessions", "description": "Conversations with their whole history."},
    {"name": "search", "description": "Messages by the words in them."},
    {"name": "archive", "description": "Sessions out of the lists, compressed, and back."},
    {"name": "export", "description": "Sessions as documents, and documents as sessions."},
    {"name": "sharing", "description": "Let others read a session."},
    {"name": "webhooks", "description": "Have other programs told what happens."},
    {"name": "branches", "description": "Fork, merge, and the tree of sessions."},
    {"name": "summaries", "description": "Summaries in place of a long conversation's beginning."},
    {"name": "statistics", "description": "Counts and reports."},
    {"name": "extensions", "description": "Enabled extensions, todo list, custom values."},
    {"name": "maintenance", "description": "Cleanup, checks and bug reports."},
    {"name": "access", "description": "Credentials for web pages."},
    {"name": "wires", "description": "Sessions in other protocols, for their clients."},
    {"name": "health", "description": "For service managers and monitoring."},
    {"name": "about", "description": "The gateway itself."},
]

_UNREFERENCED: Final = (
    ChangeEvent,
    ChangeFrame,
    ImportedConversation,
    JointStreamFrame,
    PostedEvent,
    Problem,
    StreamEvent,
    StreamFrame,
)
"""Schemas that no JSON body has, or that the responses name by reference."""


def describe_routes(routes: Sequence[GuardedRoute]) -> dict[str, Any]:
    """Build the OpenAPI 3.1 document of these routes, without those that are pages for people."""
    routes = [route for route in routes if route.include_in_schema]
    document = get_openapi(
        title="Bamboo Gateway",
        version=RELEASE,
        summary="Durable, resumable conversations between agents and web front ends.",
        description=_DESCRIPTION,
        routes=routes,
        tags=_TAGS,
        license_info={"name": "MIT", "identifier": "MIT"},
        servers=servers_of(""),
    )
    for route in routes:
        _restore_examples(document["paths"], route)
    for path in document["paths"].values():
        for operation in path.values():
            for parameter in operation.get("parameters", ()):
                if parameter["name"].endswith(FAMILY):
                    # A list only inside: each member of the family is a parameter with one value.
                    parameter["schema"] = {"type": "string"}
    components = document["components"]
    components["schemas"] = dict(sorted((components["schemas"] | _unreferenced()).items()))
    for schema in components["schemas"].values():
        _describe_defaults(schema)
    components["examples"] = {
        code: {"summary": problem.title, "value": example_problem(code)}
        for code, problem in sorted(PROBLEMS.items())
    }
    components["responses"] = {
        "UnknownRoute": _shared("not-found", "Any path that is not listed."),
        "UnknownMethod": _shared("method-not-allowed", "A listed path with another method."),
    }
    components["headers"] = {
        "RateLimitPolicy": {
            "description": "The request rates that hold for this caller, where there are any.",
            "schema": {"type": "string"},
            "example": '"caller-1s";q=1000;w=1',
        },
        "RateLimit": {
            "description": "What is left of them now: `r` requests, for `t` seconds.",
            "schema": {"type": "string"},
            "example": '"caller-1s";r=999;t=1',
        },
    }
    components["securitySchemes"] = SECURITY_SCHEMES
    for route in routes:
        for method in route.methods or ():
            operation = document["paths"][route.path_format][method.lower()]
            operation["operationId"] = route.operation_id or _camel_case(route.name)
            operation["security"] = security_of(route)
            if route.right is not None:
                for response in operation["responses"].values():
                    response["headers"] = {**response.get("headers", {}), **_RATE_HEADERS}
    return document


def servers_of(prefix: str) -> list[dict[str, Any]]:
    """Return the document's `servers`: the gateway itself, behind a prefix if that is not empty."""
    return [{"url": prefix or "/", "description": "This gateway."}]


def _unreferenced() -> dict[str, Any]:
    """Return the schemas that the framework does not see, and those that they are made of."""
    _, definitions = models_json_schema(
        [(model, "serialization") for model in _UNREFERENCED],
        ref_template="#/components/schemas/{model}",
    )
    schemas: dict[str, Any] = definitions["$defs"]
    return schemas


def _describe_defaults(schema: dict[str, Any]) -> None:
    """Say the defaults of an object's members in words.

    `openapi-typescript` takes a member with a `default` for one that is always there: what may be
    absent from an answer would count as present, and what may be left out of a request as missing.
    """
    for member in schema.get("properties", {}).values():
        default = member.pop("default", None)
        if default:
            words = f"Default: `{encode(default).decode()}`."
            member["description"] = " ".join([*filter(None, [member.get("description")]), words])


def _camel_case(name: str) -> str:
    """Return an endpoint's name as an operation id: client generators name methods after it.

    The framework's own ids hold the whole path and change with it.
    """
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))


def _restore_examples(paths: dict[str, Any], route: APIRoute) -> None:
    """Put a route's examples back: the framework drops every null of the document."""
    for method in route.methods or ():
        operation = paths[route.path_format][method.lower()]
        for status, response in route.responses.items():
            for kind, content in response.get("content", {}).items():
                shown = operation["responses"][str(status)]["content"][kind]
                shown |= {name: content[name] for name in content if name.startswith("example")}
        if route.body_field is not None:
            shown = operation["requestBody"]["content"]["application/json"]
            shown["examples"] = getattr(route.body_field.field_info, "openapi_examples", None)


def _shared(code: str, description: str) -> dict[str, Any]:
    return {
        "description": f"{description} `{code}`",
        "content": {MEDIA_TYPE: {"schema": PROBLEM_REF, "example": example_problem(code)}},
    }
