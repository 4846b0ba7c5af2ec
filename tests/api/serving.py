"""A real server in a thread, and a client that compares every answer with the OpenAPI document."""

import asyncio
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import httpx
from fastapi import FastAPI
from jsonschema_rs import Draft202012Validator

from bamboo_gateway.api.routing import create_openapi
from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.main import create_app
from bamboo_gateway.server.server import GatewayServer
from bamboo_gateway.wires.factory import wire_routers
from tests.support.clients import local_client
from tests.support.settings import given_settings

SECONDS = 120.0
"""The deadline of every wait: what nothing takes, however busy the machine is."""


@dataclass
class Served:
    """A running gateway."""

    app: FastAPI
    server: GatewayServer
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @contextmanager
    def client(self, **options: Any) -> Iterator[httpx.Client]:
        with local_client(
            base_url=f"{self.url}/api/v1",
            timeout=SECONDS,
            # As long as the server keeps it: some tests count connections, however slow they are.
            limits=httpx.Limits(keepalive_expiry=None),
            event_hooks={"response": [check_answer]},
            **options,
        ) as client:
            yield client


@contextmanager
def serving(
    prepare: Callable[[FastAPI], None] | None = None,
    *,
    until_started: bool = True,
    clock: Clock | None = None,
    **settings: Any,
) -> Iterator[Served]:
    """Run a gateway over the memory store (or what `settings` say) until the block ends."""
    # Some live beside many tests, and all log to one place: none is to hear that a busy machine
    # stood still.
    quiet = {"loop_lag_warning_seconds": 3600}
    defaults = {"storage_url": "memory:", "drain_timeout_seconds": 0, **quiet}
    app = create_app(given_settings(**{**defaults, **settings}), clock)
    if prepare is not None:
        prepare(app)
    started = threading.Event()
    server = GatewayServer(app, lambda _: started.set())
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    failures: list[BaseException] = []

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
                runner.run(server.serve([listener]))
        except BaseException as error:  # noqa: BLE001 - shown by the thread that waits
            failures.append(error)
            started.set()

    thread = threading.Thread(target=run, name="gateway")
    thread.start()
    try:
        if until_started:
            assert started.wait(SECONDS), "the gateway did not start"
        if not failures:
            yield Served(app, server, port)
    finally:
        server.begin_exit()
        thread.join(SECONDS)
        listener.close()
        assert not thread.is_alive(), "the gateway did not end"
        if failures:
            raise failures[0]


class Contract:
    """The OpenAPI document, to hold answers against."""

    def __init__(self) -> None:
        self.document = create_openapi(wire_routers())
        self._operations: list[tuple[re.Pattern[str], str, dict[str, Any]]] = []
        self._events = self._event_validators()
        self._validators: dict[int, Draft202012Validator] = {}
        for path, operations in self.document["paths"].items():
            pattern = re.compile(re.sub(r"\{\w+\}", "[^/]+", path))
            for method, operation in operations.items():
                self._operations.append((pattern, method.upper(), operation))

    def operation(self, method: str, path: str) -> dict[str, Any] | None:
        wanted = "GET" if method == "HEAD" else method
        for pattern, known, operation in self._operations:
            if known == wanted and pattern.fullmatch(path):
                return operation
        return None

    def check(self, method: str, path: str, response: httpx.Response) -> None:
        operation = self.operation(method, path)
        if operation is None:
            assert response.status_code in {404, 405, 401, 403, 400, 422}, (method, path)
            self._check_body(self.document["components"]["responses"]["UnknownRoute"], response)
            return
        key = str(response.status_code)
        assert key in operation["responses"], f"{method} {path} does not document {key}"
        described = operation["responses"][key]
        self._check_body(described, response)
        if response.headers["content-type"].startswith("application/problem+json"):
            examples = described["content"]["application/problem+json"]["examples"]
            code = response.json()["code"]
            assert code in examples, f"{method} {path} does not document {code}"

    def _event_validators(self) -> dict[str, Draft202012Validator]:
        """One validator for each type of event, which also refuses what the document leaves out.

        The document itself allows further members: clients of today read the logs of tomorrow.
        """
        schemas = self.document["components"]["schemas"]
        mapping: dict[str, str] = schemas["StreamEvent"]["discriminator"]["mapping"]
        return {
            kind: Draft202012Validator(
                {
                    **schemas[reference.removeprefix("#/components/schemas/")],
                    "additionalProperties": False,
                    "components": self.document["components"],
                }
            )
            for kind, reference in mapping.items()
        }

    def check_event(self, event: dict[str, Any]) -> None:
        """Fails when an event is not as the document describes its type."""
        self._events[event["type"]].validate(event)

    def _check_body(self, described: dict[str, Any], response: httpx.Response) -> None:
        content = described.get("content")
        if not content:
            assert not response.content
            return
        kind = response.headers["content-type"].partition(";")[0]
        if kind not in content and "application/octet-stream" in content:
            return  # the content of a file, whose type its uploader named
        assert kind in content, f"{kind} is not among {list(content)}"
        if response.request.method == "HEAD" or "json" not in kind:
            return
        if "ndjson" in kind:
            validator = self._validator(content[kind]["x-oai-itemSchema"])
            for line in response.text.splitlines():
                validator.validate(json.loads(line))
            return
        schema = content[kind]["schema"]
        self._validator(schema).validate(response.json())
        if schema.get("$ref") == "#/components/schemas/EventPage":
            for event in response.json()["events"]:
                self.check_event(event)

    def _validator(self, schema: dict[str, Any]) -> Draft202012Validator:
        """Compile a schema of the document when it is first needed: most answers have a few."""
        found = self._validators.get(id(schema))
        if found is None:
            whole = {**schema, "components": self.document["components"]}
            found = self._validators[id(schema)] = Draft202012Validator(whole)
        return found


CONTRACT = Contract()


def check_answer(response: httpx.Response) -> None:
    """Fail when an answer does not match the OpenAPI document. Tests of streams check their own."""
    kind = response.headers.get("content-type", "")
    if kind.startswith("text/event-stream"):
        return
    response.read()
    if response.status_code in {204, 304} or response.request.method == "HEAD":
        assert not response.content
        return
    CONTRACT.check(response.request.method, response.url.path, response)
    if kind.startswith("application/problem+json"):
        check_problem(response)


def check_problem(response: httpx.Response) -> None:
    """Fail when a problem is not what the contract promises of every problem."""
    problem = response.json()
    assert list(problem)[:7] == [
        "type",
        "title",
        "status",
        "detail",
        "instance",
        "code",
        "retryable",
    ]
    assert problem["status"] == response.status_code
    assert problem["type"].endswith(problem["code"])
    assert ("errors" in problem) == (response.status_code == 422)
    assert len(response.content) < 20_000
    assert "Traceback" not in response.text
    assert ".py" not in response.text
    if response.status_code in {429, 503}:
        assert int(response.headers["retry-after"]) >= 1


def refused(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Return the problem of an answer; fail when it is another one."""
    assert response.status_code == status, response.text
    problem: dict[str, Any] = response.json()
    # Below the wire of OpenAI an error has its form, and a code with underscores.
    said = problem["error"]["code"].replace("_", "-") if "error" in problem else problem["code"]
    assert said == code, problem
    return problem


def raw(port: int, data: bytes, *, until: bytes | None = None) -> bytes:
    """Send raw bytes and read to the end, or until some bytes have come."""
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as sock:
        received = b""
        # Whoever is refused before it has sent everything may be told so by a reset as well.
        with suppress(ConnectionError):
            sock.sendall(data)
        with suppress(ConnectionResetError):
            while until is None or until not in received:
                chunk = sock.recv(65536)
                if not chunk:
                    break
                received += chunk
        return received


def frames_of(text: str) -> list[tuple[str | None, dict[str, Any]]]:
    """Read SSE text by the standard's rules: `(id, data)` of each frame."""
    import json

    frames: list[tuple[str | None, dict[str, Any]]] = []
    last_id: str | None = None
    data: list[str] = []
    for line in text.split("\n"):
        if line.startswith("id: "):
            last_id = line[4:]
        elif line.startswith("data: "):
            data.append(line[6:])
        elif not line and data:
            frames.append((last_id, json.loads("\n".join(data))))
            CONTRACT.check_event(frames[-1][1])
            data = []
    return frames
