"""The OpenAPI document, made of the routes."""

from collections.abc import Sequence
from typing import Any, Final

from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from bamboo_gateway import __version__
from bamboo_gateway.api.openapi.responses import PROBLEM_REF, example_problem
from bamboo_gateway.api.problems import MEDIA_TYPE, PROBLEMS
from bamboo_gateway.api.schemas.sessions import ProblemShape
from bamboo_gateway.api.security.rights import SECURITY_SCHEMES, GuardedRoute, security_of

_DESCRIPTION: Final = """\
Durable conversations between agents and their front ends.

A *run* is one turn of an agent in a *session*; it goes on when every client has gone. All that
happens is an *event* in the session's log, and has a *position* there: whoever comes back with the
last position he has seen gets every later event, once, in order.

Errors are `application/problem+json` (RFC 9457); `code` is stable. An unknown path is answered with
404 `not-found`, an unknown method of a known path with 405 `method-not-allowed`.
"""

_RATE_HEADERS: Final = {
    "RateLimit-Policy": {"$ref": "#/components/headers/RateLimitPolicy"},
    "RateLimit": {"$ref": "#/components/headers/RateLimit"},
}

_TAGS: Final = [
    {"name": "chat", "description": "Say something and have it answered."},
    {"name": "streams", "description": "Watch a session (Server-Sent Events)."},
    {"name": "events", "description": "The log behind everything."},
    {"name": "runs", "description": "Turns of agents."},
    {"name": "messages", "description": "What was said."},
    {"name": "sessions", "description": "Conversations with their whole history."},
    {"name": "archive", "description": "Out of the lists, compressed, and back."},
    {"name": "export", "description": "Sessions as documents, and documents as sessions."},
    {"name": "sharing", "description": "Letting others read a session."},
    {"name": "branches", "description": "Fork, merge, and the tree they make."},
    {"name": "summaries", "description": "What stands for a long conversation's beginning."},
    {"name": "statistics", "description": "What sessions have come to."},
    {"name": "extensions", "description": "Enabled extensions, todo list, custom values."},
    {"name": "maintenance", "description": "Deleting what is expired; checks and bug reports."},
    {"name": "access", "description": "Credentials for web pages."},
    {"name": "health", "description": "For whatever starts and watches the gateway."},
]


def describe_routes(routes: Sequence[GuardedRoute]) -> dict[str, Any]:
    """Build the OpenAPI 3.1 document of these routes."""
    document = get_openapi(
        title="Bamboo Gateway",
        version=__version__,
        summary="Durable, resumable conversations between agents and web front ends.",
        description=_DESCRIPTION,
        routes=routes,
        tags=_TAGS,
        license_info={"name": "MIT", "identifier": "MIT"},
        servers=[{"url": "/", "description": "This gateway."}],
    )
    for route in routes:
        _restore_examples(document["paths"], route)
    components = document["components"]
    schemas = components["schemas"]
    problem = ProblemShape.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(problem.pop("$defs"))
    schemas["Problem"] = problem | {"title": "Problem"}
    components["schemas"] = dict(sorted(schemas.items()))
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
            operation["security"] = security_of(route)
            if route.right is not None:
                for response in operation["responses"].values():
                    response["headers"] = {**response.get("headers", {}), **_RATE_HEADERS}
    return document


def _restore_examples(paths: dict[str, Any], route: APIRoute) -> None:
    """Puts a route's examples back as they are: the framework drops every null in the document."""
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
