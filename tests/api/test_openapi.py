"""The OpenAPI document: valid, complete, committed, with correct examples."""

import ast
import json
import re
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_args

import pytest
from fastapi.routing import APIRoute
from jsonschema import Draft202012Validator
from jsonschema_rs import ValidationError
from openapi_spec_validator import validate

from bamboo_gateway.api.problems import PROBLEMS
from bamboo_gateway.api.routing import ROUTERS
from bamboo_gateway.domain import errors
from bamboo_gateway.domain.events import EVENT_TYPES, AgentEvent
from bamboo_gateway.main import openapi_document
from bamboo_gateway.sessions.streaming.rendering import GoodbyeReason
from bamboo_gateway.wires.factory import wire_routers
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
        for router in (*ROUTERS, *wire_routers())
        for route in router.routes
        if isinstance(route, APIRoute) and route.include_in_schema
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
            if "x-oai-itemSchema" in content:
                check_items(kind, content)
            elif "json" in kind:
                schema = {**content["schema"], "components": DOCUMENT["components"]}
                for example in content["examples"].values():
                    Draft202012Validator(schema).validate(resolved(example)["value"])
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        examples = [content["example"]] if "example" in content else []
        examples += [example["value"] for example in content.get("examples", {}).values()]
        assert examples, f"{kind} has no example"
        if "x-oai-itemSchema" in content:
            check_items(kind, content)
        elif "json" in kind:
            schema = {**content["schema"], "components": DOCUMENT["components"]}
            for example in examples:
                Draft202012Validator(schema).validate(example)


def check_items(kind: str, content: dict[str, Any]) -> None:
    """Fails when the items of a sequence's example are not as its item schema says."""
    assert content["schema"] == {"type": "string", "contentMediaType": kind}
    validator = Draft202012Validator(
        {**content["x-oai-itemSchema"], "components": DOCUMENT["components"]}
    )
    if kind == "text/event-stream":
        frames = [f for f in content["example"].split("\n\n") if not f.startswith(":")]
        items = [dict(line.split(": ", 1) for line in frame.split("\n")) for frame in frames]
        of = content["x-oai-itemSchema"]["$ref"].rpartition("/")[2]
        for frame in items:
            event = json.loads(frame["data"])
            if of == "ChangeFrame":
                changes = {"$ref": "#/components/schemas/ChangeEvent"}
                Draft202012Validator({**changes, "components": DOCUMENT["components"]}).validate(
                    event
                )
            else:
                if of == "JointStreamFrame" and event["type"] != "open":
                    del event["session_id"]  # which each event of such a stream has beside its own
                CONTRACT.check_event(event)
            frame |= {"retry": int(frame["retry"])} if "retry" in frame else {}
    else:
        items = [json.loads(line) for line in content["example"].splitlines()]
    assert items
    for item in items:
        validator.validate(item)


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS)
def test_an_operation_documents_the_problems_of_the_edge(
    path: str, method: str, operation: dict[str, Any]
) -> None:
    codes = documented_codes(operation)
    expected = {"host-not-allowed", "origin-not-allowed", "internal", "invalid"}
    expected |= {"unauthorized", "forbidden", "rate-limited"} if operation["security"] else set()
    expected |= {"invalid-id"} if "{" in path else set()
    if "requestBody" in operation:
        # An import tells by its content what it is, and a file may be anything.
        takes_any = path.endswith(("/import", "/files"))
        expected |= set() if takes_any else {"unsupported-media-type"}
        expected |= {"malformed", "file-too-large" if path.endswith("/files") else "too-large"}
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
    change_nothing = {"/login", "/logout", "/sessions/{session_id}/ticket", "/export",
                      "/webhooks/{webhook_id}/test", "/ag-ui/{agent}/connect"}  # fmt: skip
    # It replaces the metadata, so a repeat is the same; the gateway's own way is a PATCH.
    replaces = {"/openai/v1/conversations/{conversation_id}"}
    assert without == change_nothing | replaces | {"/cleanup"}
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
        for status, response in operation["responses"].items()
        for kind, content in response.get("content", {}).items()
        # Errors below a wire's path are JSON in the protocol's form.
        if kind == "application/problem+json" or (status >= "400" and "json" in kind)
        for code in content.get("examples", {})
        if code in PROBLEMS
    }


def test_every_error_code_in_the_source_has_a_status() -> None:
    """Codes of errors are literals, so they can be found; each is in the table."""
    internal = {"head-conflict", "store-busy", "store-unusable", "agent-config", "internal"}
    internal |= {"changes-lost"}  # which is answered with `reset`
    # Of commands that own the data; no request meets them.
    internal |= {"backup-refused", "backup-damaged", "migration-failed"}
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


# Clients name the methods of their code by these: one that changes breaks them all.
OPERATION_IDS = (Path(__file__).parent / "operation_ids.txt").read_text("utf-8").split()


def test_operation_ids_are_the_known_ones_each_once_and_short() -> None:
    ids = [
        operation["operationId"]
        for operations in DOCUMENT["paths"].values()
        for operation in operations.values()
    ]
    assert sorted(ids) == sorted(OPERATION_IDS)
    assert len(set(ids)) == len(ids)
    assert [each for each in ids if not re.fullmatch(r"[a-z]+([A-Z][a-z]+)*", each)] == []
    assert max(map(len, ids)) <= 24


# The members that API clients may rely on, by type of event, besides `type`, `seq` and `time`.
REQUIRED_OF_EVENTS = {
    "message": {"message", "message_id"},
    "token": {"content", "message_id", "run_id"},
    "thinking": {"content", "message_id", "run_id"},
    "tool_start": {"tool_call_id", "tool_name", "arguments", "message_id", "run_id"},
    "tool_delta": {"tool_call_id", "content", "message_id", "run_id"},
    "tool_complete": {"tool_call_id", "result", "message_id", "run_id"},
    "tool_error": {"tool_call_id", "error", "message_id", "run_id"},
    "run_queued": {"agent", "messages", "run_id"},
    "run_start": {"agent", "message_ids", "run_id"},
    "complete": {"finish_reason", "run_id"},
    "error": {"message", "code", "run_id"},
    "cancelled": {"reason", "run_id"},
    "input_required": {"run_id", "request_id", "kind", "prompt"},
    "input_given": {"request_id", "answer", "user_id", "position"},
    "input_closed": {"request_id", "reason"},
    "state_change": {"from", "to"},
    "session_created": set(),
    "session_updated": set(),
    "session_forked": {"child_id", "title", "message_id"},
    "session_merged": {"source", "strategy", "message_count", "replaces"},
    "summary_saved": {"summary", "turn_count", "position"},
    "branch_started": {"branch_id", "from_message_id", "parent_branch_id", "path"},
    "branch_selected": {"branch_id"},
    "message_hidden": {"message_id"},
    "run_hidden": {"run_id"},
    "extensions_updated": {"extension_data"},
    "session_shared": {"share"},
    "share_revoked": {"share_id"},
    "custom": {"name", "value"},
}
REQUIRED_OF_STREAMS = {
    "open": {"session_id", "connection_id", "position", "active_run_id"},
    "heartbeat": set(),
    "reset": {"reason", "position"},
    "goodbye": {"reason", "retry"},
}
SCHEMAS = DOCUMENT["components"]["schemas"]


def union_of(name: str) -> dict[str, dict[str, Any]]:
    """Return the schemas of a discriminated union by the value of `type`."""
    union = SCHEMAS[name]
    assert union["discriminator"]["propertyName"] == "type"
    mapping: dict[str, str] = union["discriminator"]["mapping"]
    assert {each["$ref"] for each in union["oneOf"]} == set(mapping.values())
    found = {}
    for kind, reference in mapping.items():
        schema = SCHEMAS[reference.removeprefix("#/components/schemas/")]
        assert schema["properties"]["type"]["const"] == kind
        assert "type" in schema["required"]
        found[kind] = schema
    return found


def test_events_are_a_union_with_a_schema_for_each_type() -> None:
    events = union_of("Event")
    assert set(events) == EVENT_TYPES
    required = {kind: set(schema["required"]) for kind, schema in events.items()}
    assert required == {
        kind: {"type", "seq", "time"} | names for kind, names in REQUIRED_OF_EVENTS.items()
    }


def test_a_stream_has_the_events_of_the_log_and_four_more() -> None:
    events = union_of("StreamEvent")
    own = {kind: set(schema["required"]) - {"type"} for kind, schema in events.items()}
    for kind in REQUIRED_OF_EVENTS:
        del own[kind]
    assert own == REQUIRED_OF_STREAMS
    assert set(SCHEMAS["GoodbyeEvent"]["properties"]["reason"]["enum"]) == set(
        get_args(GoodbyeReason)
    )


def test_the_events_that_may_be_posted_are_those_of_an_agent() -> None:
    posted = union_of("PostedEvent")
    classes = {
        next(str(field.default) for field in fields(cls) if field.name == "type"): cls
        for cls in get_args(AgentEvent)
    }
    assert set(posted) == set(classes)
    for kind, schema in posted.items():
        known = {field.name: field for field in fields(classes[kind])}
        assert set(schema["properties"]) == set(known) | {"run_id"}
        without_default = {
            name
            for name, field in known.items()
            if field.default is MISSING and field.default_factory is MISSING
        }
        names_run = set() if kind == "custom" else {"run_id"}
        assert set(schema["required"]) == without_default | names_run | {"type"}
        assert schema["additionalProperties"] is False


def test_the_three_answers_of_a_chat_are_told_apart() -> None:
    responses = DOCUMENT["paths"]["/api/v1/chat"]["post"]["responses"]
    schema = {
        (status, kind): content["schema"]
        for status in ("200", "202")
        for kind, content in responses[status]["content"].items()
    }
    assert schema == {
        ("200", "application/json"): {"$ref": "#/components/schemas/ChatCompleted"},
        ("200", "text/event-stream"): {"type": "string", "contentMediaType": "text/event-stream"},
        ("202", "application/json"): {"$ref": "#/components/schemas/ChatAccepted"},
    }
    statuses = [set(SCHEMAS[name]["properties"]["status"]["enum"])
                for name in ("ChatCompleted", "ChatAccepted")]  # fmt: skip
    assert statuses[0] & statuses[1] == set()


def test_no_member_has_a_default_that_generators_would_take_for_its_presence() -> None:
    named = [
        f"{name}.{member}"
        for name, schema in SCHEMAS.items()
        for member, described in schema.get("properties", {}).items()
        if "default" in described
    ]
    assert named == []
    on_busy = SCHEMAS["ChatInput"]["properties"]["on_busy"]
    assert on_busy["description"].endswith('Default: `"enqueue"`.')


def test_the_check_of_events_finds_a_missing_and_an_unknown_member() -> None:
    event = {"type": "token", "seq": 1, "time": "2026-01-01T00:00:00.000Z", "run_id": "r",
             "message_id": "m", "content": "x"}  # fmt: skip
    CONTRACT.check_event(event)
    for wrong in (event | {"more": 1}, {k: v for k, v in event.items() if k != "content"}):
        with pytest.raises(ValidationError):
            CONTRACT.check_event(wrong)
