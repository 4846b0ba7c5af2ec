"""Answers and logs have no secret, no path and no trace, and no client forges a log line."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.processes import REPOSITORY, Gateway

KEY = "operators-own-key-4711"
MODEL_KEY = "sk-model-key-that-nobody-sees"
SHARED = "shared-with-the-service-0815"
FORGED = "2026-01-01T00:00:00Z [info     ] forged"
EVIL = f"x\r\n{FORGED}\x1b[2J\x9b31m\u2028{FORGED}\x85\u202e"

AGENT = '''
async def agent(turn):
    """Fail in the middle with what it should have kept to itself."""
    yield "so far"
    raise RuntimeError(f"no such table in {__file__}, password=hunter2")
'''


@pytest.fixture(scope="module", params=["console", "json"])
def gateway(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    directory = tmp_path_factory.mktemp("gateway")
    (directory / "leaky_agent.py").write_text(AGENT, encoding="utf-8")
    agents = {
        "default": "demo:?delay_ms=0",
        "broken": "python:leaky_agent:agent",
        "service": "http://127.0.0.1:1/turn?token=in-the-url&secret_env=SHARED&retries_max=0",
        "model": "openai:m?base_url=http://127.0.0.1:1/v1&retries_max=0",
    }
    settings = {
        "PYTHONPATH": str(directory),
        "OPENAI_API_KEY": MODEL_KEY,
        "SHARED": SHARED,
        "BAMBOO_API_KEYS": KEY,
        "BAMBOO_AGENTS": json.dumps(agents),
        "BAMBOO_LOG_FORMAT": request.param,
        "BAMBOO_LOG_LEVEL": "debug",
    }
    gateway = Gateway(directory, settings)
    gateway.http.headers["Authorization"] = f"Bearer {KEY}"
    with gateway:
        yield gateway


def everything(gateway: Gateway, directory: Path) -> list[httpx.Response]:
    """Send valid and invalid requests whose answers could say too much."""
    http = gateway.http
    wait = {"Prefer": "wait=30"}
    answers = [
        http.post("/chat", json={"session_id": f"s-{agent}", "message": "hi", "agent": agent},
                  headers=wait)
        for agent in ("broken", "service", "model", "default")
    ]  # fmt: skip
    answers += [
        http.get(f"/sessions/{name}{what}")
        for name in ("s-broken", "s-service", "s-model")
        for what in ("", "/events?after=0", "/runs", "/messages", "/export", "/report")
    ]
    answers += [
        http.get(path)
        for path in ("/diagnostics", "/metrics", "/health/ready", "/statistics", "/nowhere")
    ]
    answers += [
        http.get("/sessions", headers={"Authorization": f"Bearer {KEY}x"}),
        http.get("/sessions", headers={"X-User-Id": EVIL.encode()[:1].decode()}),
        http.get(f"/sessions/{directory}"),
        http.post("/chat", content=b"{", headers={"Content-Type": "application/json"}),
        http.post("/chat", json={"message": "hi", "agent": EVIL}),
        http.post("/sessions", json={"id": EVIL}),
        http.post("/sessions", json={"id": "titled", "title": EVIL, "metadata": {EVIL: EVIL}}),
        http.post("/import", content=EVIL.encode()),
        http.post("/sessions/titled/export", json={"format": "json", "path": f"{directory}/a"}),
        http.get("/sessions", params={"cursor": EVIL}),
        http.get("/stream/titled", params={"connection_id": EVIL}),
        http.request("TRACE", "/sessions"),
    ]
    return answers


def test_no_answer_has_a_secret_a_path_or_a_trace(gateway: Gateway, tmp_path: Path) -> None:
    elsewhere = "/nowhere/of/the/server"
    hidden = (
        KEY, MODEL_KEY, SHARED, "in-the-url", "hunter2", "leaky_agent.py", "Traceback", 'File "',
        str(gateway.data_dir), str(gateway.data_dir.parent), str(REPOSITORY), "site-packages",
    )  # fmt: skip
    answers = everything(gateway, Path(elsewhere))
    assert {answer.status_code for answer in answers} >= {200, 401, 404, 405, 422}
    for answer in answers:
        assert answer.status_code != 500, answer.text
        told = answer.text + "".join(f"{name}: {value}\n" for name, value in answer.headers.items())
        assert not [word for word in hidden if word in told], told
    failed = [answer.json() for answer in answers[:3]]
    assert [turn["status"] for turn in failed] == ["failed"] * 3


def test_no_line_of_the_log_is_forged_and_none_has_a_secret(
    gateway: Gateway, tmp_path: Path
) -> None:
    everything(gateway, tmp_path)
    assert gateway.stop() == 0
    log = gateway.log
    gateway.start()
    for secret in (KEY, MODEL_KEY, SHARED, "in-the-url"):
        assert secret not in log
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]", log)
    lines = log.splitlines()
    assert not [line for line in lines if line.startswith(FORGED)]
    # What the agent's own code said is for the operator, and it is there.
    assert "no such table" in log
    structured: list[dict[str, Any]] = [json.loads(line) for line in lines if line[:1] == "{"]
    if structured:
        assert all({"level", "event", "timestamp"} <= set(line) for line in structured)
