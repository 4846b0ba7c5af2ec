"""The OpenAPI document: valid, complete, committed, with correct examples."""

import ast
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from bamboo_gateway.api.problems import PROBLEMS
from bamboo_gateway.api.routing import ROUTERS
from bamboo_gateway.domain import errors
from bamboo_gateway.main import openapi_document
from tests.api.serving import CONTRACT

ROOT = Path(__file__).parents[2]
DOCUMENT = CONTRACT.document
OPERATIONS = [
    pytest.param(path, method, operation, id=f"{method} {path}")
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
]
ANYWHERE = {"UnknownRoute": "not-found", "UnknownMethod": "method-not-allowed"}
# Families: what a code without an entry of its own is answered as. No route names them.
FAMILIES = {"not-found", "conflict", "gone", "limit-reached"} - set(ANYWHERE.values())


def test_the_committed_openapi_document_is_current() -> None:
    committed = (ROOT / "openapi" / "openapi.json").read_bytes()
    assert committed == openapi_document(), "run `make openapi`"


def test_the_document_is_valid() -> None:
    validate(json.loads(openapi_document()))


def test_every_route_is_in_the_document() -> None:
    routes = {
        (route.path, method.lower())
        for router in ROUTERS
        for route in router.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }
    documented = {(path, method) for path, ops in DOCUMENT["paths"].items() for method in ops}
    assert documented == routes


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS)
def test_every_operation_has_a_description_and_examples(
    path: str, method: str, operation: dict[str, Any]
) -> None:
    assert operation["summary"]
    assert len(operation["description"]) > 20
    for parameter in operation.get("parameters", []):
        assert parameter.get("description") or parameter["schema"], parameter["name"]
    for status, response in operation["responses"].items():
        assert response["description"] != "Successful Response", status
        for kind, content in response.get("content", {}).items():
            assert "example" in content or content["examples"], (status, kind)
            if "json" in kind:
                schema = {**content["schema"], "components": DOCUMENT["components"]}
                for example in content["examples"].values():
                    Draft202012Validator(schema).validate(resolved(example)["value"])
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        examples = [content["example"]] if "example" in content else []
        examples += [example["value"] for example in content.get("examples", {}).values()]
        assert examples, f"{kind} has no example"
        if "ndjson" not in kind:
            schema = {**content["schema"], "components": DOCUMENT["components"]}
            for example in examples:
                Draft202012Validator(schema).validate(example)


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS)
def test_an_operation_documents_the_problems_of_the_edge(
    path: str, method: str, operation: dict[str, Any]
) -> None:
    codes = documented_codes(operation)
    expected = {"host-not-allowed", "origin-not-allowed", "internal", "invalid"}
    expected |= {"unauthorized", "forbidden", "rate-limited"} if operation["security"] else set()
    expected |= {"invalid-id"} if "{" in path else set()
    if "requestBody" in operation:
        expected |= {"malformed", "too-large"}
        # An import tells by its content what it is.
        expected |= set() if path.endswith("/import") else {"unsupported-media-type"}
    assert expected <= codes


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS)
def test_every_answer_but_those_of_open_routes_documents_the_rate_fields(
    path: str, method: str, operation: dict[str, Any]
) -> None:
    for status, response in operation["responses"].items():
        headers = set(response.get("headers", {}))
        is_open = operation["security"] == []
        assert ({"RateLimit", "RateLimit-Policy"} <= headers) is not is_open, status
        assert ("Retry-After" in headers) == (status in {"429", "503"}), status


def test_every_post_that_changes_something_takes_an_idempotency_key_but_cleanup() -> None:
    posts = {path: operations["post"] for path, operations in DOCUMENT["paths"].items()
             if "post" in operations}  # fmt: skip
    without = {
        path.removeprefix("/api/v1")
        for path, operation in posts.items()
        if "idempotency-key" not in {each["name"] for each in operation.get("parameters", [])}
    }
    # Nothing of these is kept: what was not received is asked for again.
    change_nothing = {"/login", "/logout", "/sessions/{session_id}/ticket", "/export"}
    assert without == change_nothing | {"/cleanup"}
    assert "takes no `Idempotency-Key`" in posts["/api/v1/cleanup"]["description"]


def test_every_code_is_documented_and_every_documented_one_exists() -> None:
    used: set[str] = set()
    for operations in DOCUMENT["paths"].values():
        for operation in operations.values():
            used |= documented_codes(operation)
    for name, code in ANYWHERE.items():
        shown = DOCUMENT["components"]["responses"][name]
        used.add(shown["content"]["application/problem+json"]["example"]["code"])
        assert code in used
    assert used | FAMILIES == set(PROBLEMS)


def resolved(example: dict[str, Any]) -> dict[str, Any]:
    """Follow a reference to a shared example."""
    if "$ref" not in example:
        return example
    name = example["$ref"].removeprefix("#/components/examples/")
    shared: dict[str, Any] = DOCUMENT["components"]["examples"][name]
    assert shared["value"]["code"] == name
    return shared


def documented_codes(operation: dict[str, Any]) -> set[str]:
    return {
        code
        for response in operation["responses"].values()
        for code in response.get("content", {})
        .get("application/problem+json", {})
        .get("examples", {})
    }


def test_every_error_code_in_the_source_has_a_status() -> None:
    """Codes of errors are literals, so they can be found; each is in the table."""
    internal = {"head-conflict", "store-busy", "store-unusable", "agent-config", "internal"}
    found: set[str] = set()
    loaded = [
        Path(module.__file__ or "")
        for name, module in list(sys.modules.items())
        if name.startswith("bamboo_gateway.")
        and not name.startswith(("bamboo_gateway.cli", "bamboo_gateway.agents"))
    ]
    for file in loaded:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            match node:
                case ast.keyword(arg="code", value=ast.Constant(value=str(code))):
                    found.add(code)
                case ast.Assign(targets=[ast.Name(id="code")], value=ast.Constant(value=str(code))):
                    found.add(code)
                case _:
                    pass
    # Codes of events are snake_case (`agent_error`); those of problems are not.
    kebab = {code for code in found if "_" not in code and code != ""}
    assert kebab - internal <= set(PROBLEMS)


def test_a_family_and_its_members_share_their_status() -> None:
    for name in dir(errors):
        cls = getattr(errors, name)
        if not (isinstance(cls, type) and issubclass(cls, errors.BambooError)):
            continue
        if cls.code in PROBLEMS and cls is not errors.BambooError:
            parent = next((c for c in cls.__mro__[1:] if getattr(c, "code", "") in PROBLEMS), None)
            if parent is not None and parent is not errors.BambooError:
                assert PROBLEMS[cls.code].status == PROBLEMS[parent.code].status  # type: ignore[attr-defined]
            assert PROBLEMS[cls.code].retryable == cls.retryable


def test_codes_are_kebab_case() -> None:
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", code) for code in PROBLEMS)
