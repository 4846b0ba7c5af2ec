"""How long sessions are kept: until somebody deletes them, or a while after they expired."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from bamboo_gateway.domain.errors import NotFound, SessionExpired
from bamboo_gateway.sessions.commands import Idempotency
from bamboo_gateway.storage.factory import make_store
from tests.api.serving import CONTRACT, refused, serving
from tests.sessions.lifecycle.talk import create, said, talk
from tests.support.clocks import FakeClock
from tests.support.gateways import ME, Gateway, eventually, gateway, settings_of
from tests.support.logs import captured_logs

DAY = 24 * 3600

DOCUMENT = CONTRACT.document
ABOUT_ONE = [
    (method.upper(), path)
    for path, operations in DOCUMENT["paths"].items()
    for method in operations
    if "{session_id}" in path
]
BRINGS_BACK = ("POST", "/api/v1/sessions/{session_id}/reopen")
DELETES = ("DELETE", "/api/v1/sessions/{session_id}")
OF_ARCHIVES = ("DELETE", "/api/v1/archive/{session_id}")


# -- what is cleaned ------------------------------------------------------------------------------


async def test_a_session_without_a_time_to_live_is_never_cleaned(gate: Gateway) -> None:
    await talk(gate, "s", "a")
    gate.clock.advance(10_000 * DAY)
    assert (await gate.manager.clean(ME, dry_run=True))["session_ids"] == []
    assert (await gate.manager.clean(ME))["session_ids"] == []
    assert (await gate.manager.get_session(ME, "s")).session["state"] == "idle"


async def test_an_expired_session_is_kept_for_the_cleanup_period(gate: Gateway) -> None:
    await talk(gate, "s", "a", ttl_seconds=60)
    gate.clock.advance(60 + 30 * DAY - 1)
    assert (await gate.manager.clean(ME))["session_ids"] == []
    with pytest.raises(SessionExpired):
        await gate.manager.get_session(ME, "s")
    gate.clock.advance(1)
    looked = await gate.manager.clean(ME, dry_run=True)
    done = await gate.manager.clean(ME)
    assert looked["session_ids"] == done["session_ids"] == ["s"]
    with pytest.raises(NotFound):
        await gate.manager.get_session(ME, "s")


@pytest.mark.parametrize("days", [0, 7])
async def test_the_cleanup_period_is_the_operators(days: int) -> None:
    async with gateway(cleanup_period_days=days) as gate:
        await talk(gate, "s", "a", ttl_seconds=60)
        gate.clock.advance(59 + days * DAY)
        assert (await gate.manager.clean(ME))["session_ids"] == []
        gate.clock.advance(1)
        assert (await gate.manager.clean(ME))["session_ids"] == ["s"]


async def test_a_forced_cleanup_takes_all_without_activity_since(gate: Gateway) -> None:
    await talk(gate, "without-ttl", "a")
    await talk(gate, "expired", "a", ttl_seconds=60)
    gate.clock.advance(100)
    await talk(gate, "fresh", "a")
    done = await gate.manager.clean(ME, before_ms=gate.clock.now_ms() - 50_000)
    assert set(done["session_ids"]) == {"without-ttl", "expired"}


async def test_scheduled_cleanup_obeys_the_same_rules() -> None:
    async with gateway(cleanup_interval_seconds=0.01, cleanup_period_days=1) as gate:
        await talk(gate, "without-ttl", "a")
        await talk(gate, "expired", "a", ttl_seconds=5)
        gate.clock.advance(5 + DAY)
        await talk(gate, "just-expired", "a", ttl_seconds=5)
        gate.clock.advance(6)

        async def two_are_left() -> bool:
            return (await gate.store.usage()).sessions == 2

        await eventually(two_are_left)
        assert await gate.store.load("expired") is None


@pytest.mark.parametrize("index_enabled", [True, False])
async def test_what_is_due_is_found_with_and_without_an_index(
    index_enabled: bool, tmp_path: Path
) -> None:
    changed: dict[str, Any] = {
        "storage_url": "jsonl:",
        "data_dir": tmp_path / "data",
        "index_enabled": index_enabled,
        "archive_retention_days": 60,
    }
    clock = FakeClock()
    store = make_store(settings_of(**changed), clock)
    await store.open()
    try:
        async with gateway(store, clock=clock, **changed) as gate:
            for name in ("expired", "closed", "archived", "kept"):
                ttl = None if name == "kept" else 60
                await talk(gate, name, "a", ttl_seconds=ttl)
            await gate.manager.close_session(ME, "closed")
            await gate.manager.archive(ME, "archived")
            clock.advance(60 + 30 * DAY)
            assert set((await gate.manager.clean(ME))["session_ids"]) == {"expired", "closed"}
            clock.advance(31 * DAY)
            assert (await gate.manager.clean(ME))["session_ids"] == ["archived"]
            assert (await gate.store.usage()).sessions == 1
    finally:
        await store.aclose()


async def test_archived_sessions_are_cleaned_only_by_a_retention_of_their_own() -> None:
    async with gateway(archive_retention_days=2) as gate:
        await talk(gate, "archived", "a", ttl_seconds=60)
        await gate.manager.archive(ME, "archived")
        gate.clock.advance(2 * DAY)
        assert (await gate.manager.clean(ME))["session_ids"] == []
        gate.clock.advance(1)
        done = await gate.manager.clean(ME)
        assert (done["archives_cleaned"], done["session_ids"]) == (1, ["archived"])


# -- what an expired session answers --------------------------------------------------------------


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@contextmanager
def with_an_expired_session(clock: FakeClock, export_dir: Path) -> Iterator[httpx.Client]:
    """A gateway with the expired session `s`."""
    with serving(clock=clock, export_dir=export_dir) as served, served.client() as api:
        create(api, "s", "a", ttl_seconds=60)
        create(api, "other", "b")
        clock.advance(61)
        yield api


@pytest.fixture
def expired(clock: FakeClock, tmp_path: Path) -> Iterator[httpx.Client]:
    with with_an_expired_session(clock, tmp_path) as api:
        yield api


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """One for all tests whose calls are refused."""
    with with_an_expired_session(FakeClock(), tmp_path_factory.mktemp("exports")) as api:
        yield api


def _body(method: str, path: str) -> dict[str, Any]:
    operation = DOCUMENT["paths"][path][method.lower()]
    content = operation.get("requestBody", {}).get("content", {})
    examples = content.get("application/json", {}).get("examples") or {}
    bodies = [example["value"] for example in examples.values()]
    return {"json": bodies[0]} if bodies else {}


def _ask(api: httpx.Client, method: str, path: str) -> httpx.Response:
    filled = path.removeprefix("/api/v1").format(
        session_id="s",
        run_id="r",
        connection_id="c",
        name="x",
        share_id="share-1",
        branch_id="main",
    )
    body = _body(method, path)
    if path.endswith("/merge"):
        body["json"] = body["json"] | {"source_id": "other"}
    return api.request(method, filled, **body)


@pytest.mark.parametrize(
    ("method", "path"),
    [one for one in ABOUT_ONE if one not in {BRINGS_BACK, DELETES, OF_ARCHIVES}],
    ids=lambda part: str(part),
)
def test_an_expired_session_is_410_for_everything_but_delete_and_reopen(
    untouched: httpx.Client, method: str, path: str
) -> None:
    answer = _ask(untouched, method, path)
    assert answer.status_code == 410, answer.text
    assert answer.json()["code"] == "session-expired"


def test_calls_that_name_an_expired_session_in_their_body_are_refused_too(
    untouched: httpx.Client,
) -> None:
    api = untouched
    refused(api.post("/chat", json={"message": "x", "session_id": "s"}), 410, "session-expired")
    refused(api.post("/sessions/other/merge", json={"source_id": "s"}), 410, "session-expired")
    failed = api.post("/archive", json={"session_ids": ["s"]}).json()["failed"]
    assert [one["code"] for one in failed] == ["session-expired"]
    # Its id is taken as long as it can come back.
    refused(api.post("/sessions", json={"id": "s"}), 409, "session-exists")
    refused(api.post("/sessions/other/fork", json={"new_id": "s"}), 409, "session-exists")


def test_an_expired_session_is_deleted_as_any_other(expired: httpx.Client) -> None:
    assert expired.delete("/sessions/s").status_code == 204
    refused(expired.get("/sessions/s"), 404, "session-not-found")


def test_an_expired_session_is_listed_as_expired(expired: httpx.Client) -> None:
    listed = expired.get("/sessions", params={"state": "expired"}).json()["sessions"]
    assert [one["id"] for one in listed] == ["s"]


# -- reopen ---------------------------------------------------------------------------------------


def add(api: httpx.Client, session_id: str, text: str) -> None:
    sent = api.post(f"/sessions/{session_id}/messages", json={"role": "user", "content": text})
    assert sent.status_code == 201


def test_reopen_brings_an_expired_session_back_with_a_new_time_to_live(
    expired: httpx.Client, clock: FakeClock
) -> None:
    back = expired.post("/sessions/s/reopen", json={"ttl_seconds": 3600})
    assert back.status_code == 200
    shown = back.json()
    assert (shown["state"], shown["ttl_seconds"]) == ("idle", 3600)
    assert expired.get("/sessions/s").json() == shown
    add(expired, "s", "still here")
    assert [one["content"] for one in said(expired, "s")] == ["a", "still here"]
    change = [
        event
        for event in expired.get("/sessions/s/events").json()["events"]
        if event["type"] == "state_change"
    ]
    assert [(one["from"], one["to"]) for one in change] == [("expired", "idle")]
    clock.advance(3599)
    assert expired.get("/sessions/s").status_code == 200
    clock.advance(1)
    refused(expired.get("/sessions/s"), 410, "session-expired")


def test_reopen_without_a_time_to_live_counts_the_old_one_again(
    expired: httpx.Client, clock: FakeClock
) -> None:
    assert expired.post("/sessions/s/reopen").json()["ttl_seconds"] == 60
    clock.advance(59)
    assert expired.get("/sessions/s").status_code == 200
    clock.advance(1)
    refused(expired.get("/sessions/s"), 410, "session-expired")


def test_reopen_may_take_the_time_to_live_away(expired: httpx.Client, clock: FakeClock) -> None:
    shown = expired.post("/sessions/s/reopen", json={"ttl_seconds": None}).json()
    assert (shown["ttl_seconds"], shown["expires_at"]) == (None, None)
    clock.advance(1000 * DAY)
    assert expired.get("/sessions/s").status_code == 200


def test_reopen_sets_the_time_to_live_of_a_closed_session_and_opens_it(
    expired: httpx.Client,
) -> None:
    expired.post("/sessions/other/close")
    shown = expired.post("/sessions/other/reopen", json={"ttl_seconds": 90}).json()
    assert (shown["state"], shown["ttl_seconds"]) == ("idle", 90)


def test_reopen_opens_a_session_that_was_closed_and_expired_since(
    expired: httpx.Client, clock: FakeClock
) -> None:
    expired.post("/sessions/s/reopen")
    expired.post("/sessions/s/close")
    clock.advance(61)
    refused(expired.get("/sessions/s"), 410, "session-expired")
    assert expired.post("/sessions/s/reopen", json={"ttl_seconds": 60}).json()["state"] == "idle"
    add(expired, "s", "open")


@pytest.mark.parametrize("ttl", [0, -1, "soon", 1.5])
def test_reopen_refuses_what_is_no_time_to_live(expired: httpx.Client, ttl: Any) -> None:
    refused(expired.post("/sessions/s/reopen", json={"ttl_seconds": ttl}), 422, "invalid")
    refused(expired.get("/sessions/s"), 410, "session-expired")


def test_a_repeated_reopen_is_carried_out_once(expired: httpx.Client) -> None:
    key = {"Idempotency-Key": "k"}
    first = expired.post("/sessions/s/reopen", json={"ttl_seconds": 90}, headers=key)
    again = expired.post("/sessions/s/reopen", json={"ttl_seconds": 90}, headers=key)
    assert again.json() == first.json()
    assert again.headers["Idempotency-Replayed"] == "true"
    other = expired.post("/sessions/s/reopen", json={"ttl_seconds": 91}, headers=key)
    refused(other, 422, "idempotency-key-reused")


async def test_a_reopened_session_outlives_the_cleanup_period(gate: Gateway) -> None:
    await talk(gate, "s", "a", ttl_seconds=60)
    gate.clock.advance(60 + 29 * DAY)
    await gate.manager.reopen_session(ME, "s", ttl_seconds=10 * DAY)
    gate.clock.advance(9 * DAY)
    assert (await gate.manager.clean(ME))["session_ids"] == []
    assert (await gate.manager.get_session(ME, "s")).session["state"] == "idle"


async def test_an_expired_session_is_reopened_with_a_key_from_before(gate: Gateway) -> None:
    """The answers to keys that a session kept are still kept when it comes back."""
    await talk(gate, "s", "a", ttl_seconds=60)
    idem = Idempotency("k", "POST /reopen", "")
    gate.clock.advance(61)
    first = await gate.manager.reopen_session(ME, "s", idem)
    again = await gate.manager.reopen_session(ME, "s", idem)
    assert again.replayed
    assert again.answer == first.answer


# -- what the operator is told --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {},
            {
                "default_ttl_seconds": None,
                "cleanup_period_days": 30,
                "archive_retention_days": None,
            },
        ),
        (
            {"default_ttl_seconds": 60, "cleanup_period_days": 0, "archive_retention_days": 9},
            {"default_ttl_seconds": 60, "cleanup_period_days": 0, "archive_retention_days": 9},
        ),
    ],
)
def test_the_start_says_the_retention_in_force(
    settings: dict[str, Any], told: dict[str, Any]
) -> None:
    with captured_logs() as lines, serving(**settings):
        pass
    (line,) = [one for one in lines if one["event"] == "retention in force"]
    assert {name: line[name] for name in told} == told
    assert line["log_level"] == "info"
