"""The audit log: who did what to what, also what was refused or failed."""

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bamboo_gateway.api.audit import ACTIONS
from bamboo_gateway.api.routing import ROUTERS
from bamboo_gateway.domain.codec import encode
from bamboo_gateway.wires.factory import wire_routers
from tests.api.keyed import LateClock
from tests.api.serving import SECONDS, Served, serving
from tests.observability.scraping import Scrape
from tests.support.waiting import until

KEY = {"Authorization": "Bearer sk-one"}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    data_dir = tmp_path / "data"
    with serving(storage_url="jsonl:", data_dir=data_dir, api_keys=("sk-one",)) as running:
        yield running


@pytest.fixture
def api(served: Served) -> Iterator[httpx.Client]:
    with served.client(headers=KEY) as client:
        yield client


def records(tmp_path: Path) -> list[dict[str, Any]]:
    path = tmp_path / "data" / "audit.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_each_action_is_recorded_before_its_answer_is_read(
    api: httpx.Client, tmp_path: Path
) -> None:
    def last() -> dict[str, Any]:
        return records(tmp_path)[-1]

    for name in ("one", "two", "three"):
        api.post("/sessions", json={"id": name, "title": "never in the audit log"})
    api.post("/sessions/one/archive", headers={"X-Request-Id": "r-1"})
    assert (
        last().items()
        >= {
            "action": "archive",
            "outcome": "done",
            "status": 200,
            "code": None,
            "targets": ["one"],
            "request_id": "r-1",
            "remote_address": "127.0.0.1",
        }.items()
    )
    assert last()["caller"].startswith("key-")
    assert last()["time"].endswith("Z")
    api.post("/sessions/one/archive")
    assert (last()["outcome"], last()["targets"]) == ("done", ["one"])
    api.post("/sessions/one/restore")
    assert last()["action"] == "restore"
    api.post("/archive", json={"session_ids": ["two", "missing", "../x"]})
    assert last()["targets"] == ["two"]
    assert last()["failed_targets"] == ["missing"]
    api.post("/archive/restore", json={"session_ids": ["two"]})
    assert (last()["action"], last()["targets"]) == ("restore", ["two"])
    document = api.get("/sessions/one/export", params={"format": "json"}).content
    made = api.post("/import", content=document, headers={"Content-Type": "application/json"})
    assert (last()["action"], last()["targets"]) == ("import", [made.json()["id"]])
    api.delete("/sessions/three")
    assert (last()["action"], last()["targets"]) == ("delete", ["three"])
    api.post("/sessions", json={"id": "four"})
    api.delete("/openai/v1/conversations/conv_four")
    assert (last()["action"], last()["targets"]) == ("delete", ["four"])
    api.post("/cleanup", json={"before": "2000-01-01T00:00:00Z", "dry_run": True})
    assert (last()["action"], last()["targets"]) == ("cleanup", [])
    api.post("/cleanup", json={"before": "2100-01-01T00:00:00Z"})
    assert set(last()["targets"]) == {"one", "two", made.json()["id"]}
    api.get("/diagnostics")
    assert last()["action"] == "diagnose"
    assert "never in" not in (tmp_path / "data" / "audit.jsonl").read_text("utf-8")


def test_logins_logouts_and_tickets_are_recorded_without_their_secrets(
    served: Served, api: httpx.Client, tmp_path: Path
) -> None:
    api.post("/sessions", json={"id": "s"})
    ticket = api.post("/sessions/s/ticket").json()["ticket"]
    cookie = api.post("/login").headers["set-cookie"].partition(";")[0]
    api.cookies.clear()
    page = {"Cookie": cookie, "Origin": served.url}
    with served.client(headers=page) as browser:
        assert browser.post("/login").status_code == 401
        assert browser.post("/logout", headers={"Origin": "http://x.example"}).status_code == 403
        assert browser.post("/logout").status_code == 204
    found = records(tmp_path)
    assert [(r["action"], r["outcome"], r["code"], r["targets"]) for r in found] == [
        ("ticket", "done", None, ["s"]),
        ("login", "done", None, []),
        ("login", "refused", "unauthorized", []),
        ("logout", "refused", "origin-not-allowed", []),
        ("logout", "done", None, []),
    ]
    (key,) = {record["credential"].partition("/")[0] for record in found}
    assert [record["credential"].partition("/cookie-")[0] for record in found] == [key] * 5
    text = (tmp_path / "data" / "audit.jsonl").read_text("utf-8")
    for secret in (ticket, cookie.partition("=")[2], "sk-one"):
        assert secret.rpartition(".")[2] not in text


def test_each_session_of_a_scheduled_cleanup_is_recorded(
    tmp_path: Path,
) -> None:
    data_dir, clock = tmp_path / "data", LateClock()
    clock.ahead_ms = 0
    with serving(
        storage_url="jsonl:",
        data_dir=data_dir,
        cleanup_interval_seconds=0.02,
        cleanup_period_days=0,
        clock=clock,
    ) as served:
        with served.client() as api:
            for name in ("one", "two"):
                api.post("/sessions", json={"id": name, "ttl_seconds": 60})
            api.post("/sessions", json={"id": "stays"})
        assert not (data_dir / "audit.jsonl").exists()
        clock.ahead_ms = 61_000
        until(lambda: (data_dir / "audit.jsonl").exists(), "the first is cleaned")
        until(lambda: len(records(tmp_path)) >= 2, "both are cleaned")
    found = records(tmp_path)
    assert sorted(record["targets"] for record in found) == [["one"], ["two"]]
    for record in found:
        told = (record["action"], record["outcome"], record["caller"], record["status"])
        assert told == ("cleanup", "done", "gateway", None)


def test_each_session_of_an_import_of_many_is_recorded(api: httpx.Client, tmp_path: Path) -> None:
    document = (Path(__file__).parents[1] / "exporters" / "samples" / "chatgpt.json").read_bytes()
    answer = api.post("/import", params={"conversation": "all"}, content=document)
    made = [json.loads(line)["session"]["id"] for line in answer.content.splitlines()]
    found = [record for record in records(tmp_path) if record["action"] == "import"]
    assert [record["targets"] for record in found] == [[made[0]], [made[1]]]
    assert {record["request_id"] for record in found} == {answer.headers["x-request-id"]}


def test_refused_and_failed_actions_are_recorded_too(
    served: Served, api: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert api.delete("/sessions/missing").status_code == 404
    assert api.post("/import", content=b"nothing").status_code >= 400
    assert api.delete("/sessions/..%2f..%2fx").status_code == 422

    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(served.app.state.manager, "clean", broken)
    assert api.post("/cleanup").status_code == 500
    found = [(r["action"], r["outcome"], r["code"], r["targets"]) for r in records(tmp_path)]
    assert found[0] == ("delete", "refused", "session-not-found", ["missing"])
    assert found[1][:2] == ("import", "refused")
    assert found[-1] == ("cleanup", "failed", "internal", [])


def test_callers_without_a_key_and_mere_reads_leave_no_record(
    served: Served, api: httpx.Client, tmp_path: Path
) -> None:
    httpx.delete(f"{served.url}/api/v1/sessions/x", trust_env=False, timeout=SECONDS)
    for cookie in ({}, {"Cookie": "bamboo_login=made-up"}):
        headers = {"Origin": served.url, **cookie}
        left = httpx.post(
            f"{served.url}/api/v1/logout", headers=headers, trust_env=False, timeout=SECONDS
        )
        assert left.status_code == 204
    api.post("/sessions", json={"id": "s"})
    api.get("/sessions/s")
    assert not (tmp_path / "data" / "audit.jsonl").exists()


def test_the_file_is_private_and_may_be_renamed_while_it_is_written(
    api: httpx.Client, tmp_path: Path
) -> None:
    path = tmp_path / "data" / "audit.jsonl"
    api.get("/diagnostics")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.rename(path.with_suffix(".1"))
    api.get("/diagnostics")
    assert len(records(tmp_path)) == 1
    assert len(path.with_suffix(".1").read_text("utf-8").splitlines()) == 1


def test_a_record_that_cannot_be_written_is_counted_and_the_action_stands(tmp_path: Path) -> None:
    with serving(audit_log=tmp_path / "missing" / "audit.jsonl") as served:
        with served.client() as api:
            api.post("/sessions", json={"id": "s"})
            assert api.delete("/sessions/s").status_code == 204
            assert api.get("/sessions/s").status_code == 404
        assert Scrape(served).get("audit_failures_total") == 1


def test_every_audited_route_is_there() -> None:
    routes = {
        (method, route.path)  # type: ignore[attr-defined]
        for router in (*ROUTERS, *wire_routers())
        for route in router.routes
        for method in route.methods  # type: ignore[attr-defined]
    }
    assert set(ACTIONS) <= routes


def test_a_record_is_one_line_whatever_it_contains() -> None:
    assert b"\n" not in encode({"user_id": "a\nb\u2028\x1b"})
