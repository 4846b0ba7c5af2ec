"""Errors below a wire's path: whatever refuses the request, the answer has the wire's own form."""

from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.responses import JSONResponse, Response

from bamboo_gateway.api.error_forms import ErrorForms
from tests.api.serving import SECONDS, serving

KEY = "k" * 32
BELOW = "/api/v1/chat"


def shout(problem: Mapping[str, Any], headers: Mapping[str, str]) -> Response:
    return JSONResponse({"shouted": problem["code"]}, problem["status"], headers)


def with_form(app: FastAPI) -> None:
    app.state.error_forms = ErrorForms(((BELOW, shout),))


@pytest.mark.parametrize(
    ("code", "status", "request_of"),
    [
        ("unauthorized", 401, {"method": "POST", "headers": {"Authorization": ""}}),
        ("unauthorized", 401, {"method": "POST", "headers": {"Authorization": "Bearer no"}}),
        ("host-not-allowed", 403, {"method": "POST", "headers": {"Host": "evil"}, "keyless": True}),
        ("not-found", 404, {"path": BELOW + "/nothing"}),
        ("method-not-allowed", 405, {"method": "PUT"}),
        ("too-large", 413, {"method": "POST", "content": b"x" * 70_000}),
        ("unsupported-media-type", 415, {"method": "POST", "content": b"x"}),
        ("malformed", 400, {"method": "POST", "json_content": b"{"}),
        ("invalid", 422, {"method": "POST", "json_content": b"{}"}),
    ],
)
def test_whatever_refuses_a_request_answers_in_the_form_of_the_path(
    code: str, status: int, request_of: dict[str, Any]
) -> None:
    wanted = {"method": "GET", "path": BELOW, **request_of}
    headers = {"Authorization": f"Bearer {KEY}", **wanted.get("headers", {})}
    keys = [] if wanted.get("keyless") else [KEY]
    if (content := wanted.get("json_content")) is not None:
        headers["Content-Type"] = "application/json"
    else:
        content = wanted.get("content")
    with (
        serving(prepare=with_form, api_keys=keys, max_body_bytes=65_536) as served,
        httpx.Client(timeout=SECONDS, trust_env=False) as client,
    ):
        url = f"http://127.0.0.1:{served.port}"
        answer = client.request(
            wanted["method"], url + wanted["path"], headers=headers, content=content
        )
        assert (answer.status_code, answer.json()) == (status, {"shouted": code})
        if status == 401:
            assert "Bearer" in answer.headers["www-authenticate"]
        if status == 405:
            assert answer.headers["allow"] == "POST"
        elsewhere = client.get(url + "/api/v1/chatter", headers={"Host": "evil"})
        assert elsewhere.headers["content-type"] == "application/problem+json"


def test_a_rate_limit_answers_in_the_form_of_the_path() -> None:
    with (
        serving(prepare=with_form, api_keys=[KEY], rate_limit_per_caller="2/hour") as served,
        httpx.Client(timeout=SECONDS, trust_env=False) as client,
    ):
        url = f"http://127.0.0.1:{served.port}{BELOW}"
        key = {"Authorization": f"Bearer {KEY}"}
        answers = [client.put(url, headers=key) for _ in range(3)]
    assert [one.json()["shouted"] for one in answers] == [
        "method-not-allowed",
        "method-not-allowed",
        "rate-limited",
    ]
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["retry-after"]) >= 1
