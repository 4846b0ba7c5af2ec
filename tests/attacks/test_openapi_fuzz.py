"""Schemathesis: valid and invalid requests made from the committed OpenAPI document.

Whatever is sent is answered with a status, a media type and a shape that the document has for this
operation; a wrong request is refused; nothing is a 500.
"""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import hypothesis
import pytest
import requests

from tests.api.serving import CONTRACT, SECONDS, Served, check_answer, serving
from tests.processes import REPOSITORY

EXAMPLES = [pytest.param(3, id="quick"), pytest.param(60, id="long", marks=pytest.mark.slow)]
OPERATIONS = [
    pytest.param(path, method, mode, id=f"{method} {path} {mode}")
    for path, methods in CONTRACT.document["paths"].items()
    for method, operation in methods.items()
    # Where nothing can be given, nothing can be given wrong.
    for mode in ["positive", "negative"][
        : 2 if {"parameters", "requestBody"} & set(operation) else 1
    ]
]
SESSION = "known"
NDJSON = "application/x-ndjson"


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    agents = {"default": "demo:?delay_ms=0"}
    # An endless stream would end no test.
    with serving(agents=agents, stream_lifetime_seconds=0.02) as running:
        yield running


@pytest.fixture(scope="module")
def document() -> Any:
    import schemathesis

    @schemathesis.serializer(NDJSON)
    def lines(_context: Any, value: Any) -> bytes:
        items = value if isinstance(value, list) else [value]
        return b"".join(
            (item if isinstance(item, str) else json.dumps(item)).encode(errors="replace") + b"\n"
            for item in items
        )

    return schemathesis.openapi.from_path(str(REPOSITORY / "openapi" / "openapi.json"))


@pytest.fixture(scope="module")
def http() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.parametrize(("path", "method", "mode"), OPERATIONS)
def test_every_answer_matches_the_openapi_document(
    served: Served,
    document: Any,
    http: requests.Session,
    path: str,
    method: str,
    mode: str,
    examples: int,
) -> None:
    from schemathesis.generation import GenerationMode
    from schemathesis.specs.openapi import checks

    @hypothesis.settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(document[path][method].as_strategy(generation_mode=GenerationMode(mode)))
    def attack(case: Any) -> None:
        http.post(f"{served.url}/api/v1/sessions", json={"id": SESSION})
        shorten(case)
        if mode == "positive" and "session_id" in (case.path_parameters or {}):
            case.path_parameters["session_id"] = SESSION
        answer = case.call(base_url=served.url, session=http, timeout=SECONDS)
        held_against = [
            checks.status_code_conformance,
            checks.content_type_conformance,
            checks.response_headers_conformance,
        ]
        if case.media_type != NDJSON:  # a wrong array of right events makes right lines
            held_against.append(checks.negative_data_rejection)
        case.validate_response(answer, checks=held_against)
        check_answer(
            httpx.Response(
                answer.status_code,
                headers={"content-type": answer.headers.get("content-type", [""])[0]},
                content=answer.content,
                request=httpx.Request(method, answer.request.url),
            )
        )

    attack()


def shorten(case: Any) -> None:
    """Leave out what makes an answer wait."""
    for wait in ("wait", "heartbeat"):
        (case.query or {}).pop(wait, None)
    if (case.query or {}).get("live") == "long-poll":
        del case.query["live"]
    for name in [name for name in case.headers or {} if name.lower() == "prefer"]:
        del case.headers[name]
