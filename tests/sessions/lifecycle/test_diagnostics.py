"""Diagnostics: what is checked, and what a bug report must not say."""

import io
import json
import socket
import zipfile
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

import apsw
import httpx
import pytest

from bamboo_gateway.domain.callers import LOCAL_CALLER
from bamboo_gateway.domain.clock import SystemClock
from bamboo_gateway.domain.masking import MASK, Masker
from bamboo_gateway.sessions.manager import SessionManager
from bamboo_gateway.settings import Settings
from bamboo_gateway.storage.jsonl.store import JsonlStore
from tests.api.serving import SECONDS, refused, serving
from tests.sessions.lifecycle.talk import create
from tests.support.postgres import PostgresServer, execute
from tests.support.waiting import until

SECRETS = [
    "sk-abcdefghijklmnop1234",
    "ghp_abcdefghijklmnopqrstuvwxyz012345",
    "AKIAABCDEFGHIJKLMNOP",
    "xoxb-1234567890-abcdef",
    "Bearer abcdef0123456789",
    "eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.c2lnbmF0dXJl",
    "postgres://user:hunter22@db/x",
    "PASSWORD=hunter2222",
    '"api_key": "q1w2e3r4t5"',
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEabc\n-----END RSA PRIVATE KEY-----",
]


@pytest.mark.parametrize("secret", SECRETS)
def test_what_looks_like_a_secret_is_masked_in_text(secret: str) -> None:
    masker = Masker()
    masked = masker.text(f"here: {secret} and more")
    assert MASK in masked
    assert "hunter2" not in masked
    assert secret not in masked
    assert masked.endswith(" and more")
    assert sum(masker.masked.values()) == 1


def test_values_of_names_like_secrets_are_masked_and_counts_are_not() -> None:
    value = {"apiKey": "x", "deep": [{"Authorization": "y"}], "total_tokens": 5, "note": "plain"}
    assert Masker().value(value) == {
        "apiKey": MASK,
        "deep": [{"Authorization": MASK}],
        "total_tokens": 5,
        "note": "plain",
    }


def test_a_bug_report_says_what_happened_and_no_secret(api: httpx.Client) -> None:
    create(api, "bug-1", "hello", *SECRETS, metadata={"password": "hunter2222"})
    answer = api.get("/sessions/bug-1/diagnostics")
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        names = set(archive.namelist())
        whole = b"\n".join(archive.read(name) for name in names).decode()
        events = archive.read("events.jsonl").splitlines()
        told = json.loads(archive.read("masked.json"))
    others = {"storage.json", "statistics.json", "masked.json"}
    assert names == {"session.json", "events.jsonl", *others}
    assert "hello" in whole
    assert "hunter" not in whole
    for secret in SECRETS:
        assert json.dumps(secret)[1:-1] not in whole
    assert len(events) == 3 + len(SECRETS)  # it was created, "hello", its title
    assert sum(told["masked"].values()) >= len(SECRETS)
    refused(api.get("/sessions/nobody/diagnostics"), 404, "session-not-found")


def test_the_checks_say_what_was_seen_and_what_to_do(api: httpx.Client) -> None:
    found = api.get("/diagnostics").json()
    names = {check["name"] for check in found["checks"]}
    assert {"versions", "clock", "writing", "agents", "max_connections"} <= names
    # Each store checks what it has.
    assert ({"journal", "quarantine", "catalog"} <= names) == ("disk space" in names)
    assert ("journal" in names) == ("disk space" in names)
    assert all(check["seen"] for check in found["checks"])
    assert all(check["status"] == "ok" or check["action"] for check in found["checks"])
    # No path of the server in it.
    assert "/tmp" not in json.dumps(found)


def test_a_directory_that_others_may_enter_and_a_full_limit_are_said(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o755)
    data.chmod(0o755)
    with serving(
        storage_url="jsonl:", data_dir=data, max_sessions=1
    ) as served, served.client() as api:  # fmt: skip
        create(api, "one")
        data.chmod(0o755)
        found = api.get("/diagnostics").json()
    by_name = {check["name"]: check["status"] for check in found["checks"]}
    assert by_name["directory modes"] == "warn"
    assert by_name["max_sessions"] == "fail"
    assert found["status"] == "fail"


async def test_the_directory_is_the_one_that_the_store_reports(tmp_path: Path) -> None:
    """Whichever store it is: the settings need not name it."""
    clock, data = SystemClock(), tmp_path / "data"
    store = JsonlStore(data, clock)
    await store.open()
    try:
        async with SessionManager(store, {}, Settings(storage_url="memory:"), clock) as manager:
            data.chmod(0o755)
            found = await manager.diagnostics(LOCAL_CALLER)
    finally:
        await store.aclose()
    by_name = {check["name"]: check["status"] for check in found["checks"]}
    assert by_name["directory modes"] == "warn"
    assert "disk space" in by_name


def checks_of(api: httpx.Client) -> dict[str, dict[str, str]]:
    return {check["name"]: check for check in api.get("/diagnostics").json()["checks"]}


def test_the_catalog_is_held_against_the_files_and_records_against_their_checksums(
    tmp_path: Path,
) -> None:
    with serving(storage_url="jsonl:", data_dir=tmp_path) as served, served.client() as api:
        for name in ("one", "two", "three"):
            create(api, name, "hello")
        api.post("/sessions/three/archive")
    # Its end has brought up to date what it wrote: files lag behind what is acknowledged.
    with serving(
        storage_url="jsonl:", data_dir=tmp_path, checkpoint_interval_seconds=0.05
    ) as served, served.client() as api:  # fmt: skip
        found = checks_of(api)
        assert [found[n]["status"] for n in ("catalog", "records", "journal age")] == ["ok"] * 3
        assert found["catalog"]["seen"] == "3 sessions, each with its files"
        assert "3 sessions" in found["records"]["seen"]
        events = tmp_path / "events"
        (events / "stray.jsonl").write_bytes(b"{}\n")
        (events / "two.jsonl").unlink()
        log = events / "one.jsonl"
        log.write_bytes(log.read_bytes().replace(b"hello", b"jello"))
        found = checks_of(api)
        assert found["catalog"]["status"] == found["records"]["status"] == "fail"
        assert "1 sessions without their files (two)" in found["catalog"]["seen"]
        assert "1 files of no session (stray)" in found["catalog"]["seen"]
        assert "one: an unreadable line" in found["records"]["seen"]
        assert "bamboo doctor" in found["records"]["action"]
        # Looking has changed nothing.
        assert checks_of(api)["records"]["seen"].count("one: ") == 1


def test_a_sqlite_database_and_its_sessions_are_checked(tmp_path: Path) -> None:
    with serving(
        storage_url="sqlite:", data_dir=tmp_path / "data"
    ) as served, served.client() as api:  # fmt: skip
        for name in ("one", "two", "three"):
            create(api, name, "hello")
        api.post("/sessions/three/archive")
        found = checks_of(api)
        assert {name: found[name]["status"] for name in (*DATABASE, *FILE)} == dict.fromkeys(
            (*DATABASE, *FILE), "ok"
        )
        assert found["database"]["seen"].startswith("SQLite 3.")
        assert "durability = fsync" in found["durability"]["seen"]
        assert "0 failed checkpoints" in found["write-ahead log"]["seen"]
        assert found["records"]["seen"].startswith("3 sessions were read")
        change(tmp_path / "data" / "sessions.db", DAMAGE)
        assert_damage_is_said(api)


def test_a_postgresql_database_and_its_sessions_are_checked(
    tmp_path: Path, postgres_url: str
) -> None:
    with serving(
        storage_url=postgres_url, data_dir=tmp_path / "data"
    ) as served, served.client() as api:  # fmt: skip
        for name in ("one", "two", "three"):
            create(api, name, "hello")
        api.post("/sessions/three/archive")
        answer = api.get("/diagnostics")
        password = urlsplit(postgres_url).password
        assert password is None or unquote(password) not in answer.text
        found = checks_of(api)
        assert {found[name]["status"] for name in DATABASE} == {"ok"}
        [(version, fsync)] = execute(
            postgres_url, "SELECT current_setting('server_version'), current_setting('fsync')"
        )
        assert found["database"]["seen"] == f"PostgreSQL {version} answers"
        assert f"fsync = {fsync}," in found["durability"]["seen"]
        assert found["durability"]["status"] == ("ok" if fsync == "on" else "warn")
        # A server's disk is not this machine's.
        assert not FILE & found.keys()
        assert found["records"]["seen"].startswith("3 sessions were read")
        execute(postgres_url, DAMAGE)
        assert_damage_is_said(api)


def test_a_database_that_does_not_answer_is_said(
    tmp_path: Path, own_postgres: PostgresServer
) -> None:
    with own_postgres.database() as name, serving(
        storage_url=own_postgres.url(name), data_dir=tmp_path / "data"
    ) as served, served.client() as api:  # fmt: skip
        create(api, "one", "hello")
        own_postgres.stop()
        try:
            found = checks_of(api)
            assert found["database"]["status"] == "fail"
            assert "does not answer" in found["database"]["seen"]
        finally:
            own_postgres.start()
        until(lambda: checks_of(api)["database"]["status"] == "ok", "it answers", SECONDS)


DATABASE = {"database", "database size", "leftovers", "search", "records"}
FILE = {"write-ahead log", "disk space", "directory modes"}
DAMAGE = "UPDATE events SET body = '{' WHERE session_key = 1 AND seq = 2"


def assert_damage_is_said(api: httpx.Client) -> None:
    for _ in range(2):
        # Looking has changed nothing.
        records = checks_of(api)["records"]
        assert records["status"] == "fail"
        assert "one: 1 events are damaged" in records["seen"]
        assert "bamboo doctor --repair" in records["action"]


def change(path: Path, text: str) -> None:
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute(text)
        assert connection.total_changes()


def test_agents_that_cannot_be_reached_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bamboo_gateway.sessions.diagnostics._PROBE_SECONDS", SECONDS)
    with socket.socket() as deaf, serving(storage_url="memory:", data_dir=tmp_path) as there:
        # Bound, so that nobody else is given the port; and it does not listen.
        deaf.bind(("127.0.0.1", 0))
        port = deaf.getsockname()[1]
        agents = {
            "default": "demo:",
            "there": f"{there.url}/api/v1/health/live",
            "gone": f"http://127.0.0.1:{port}/",
            "model": f"openai:m?base_url=http://127.0.0.1:{port}/v1",
        }
        with serving(
            storage_url="memory:", data_dir=tmp_path, agents=agents
        ) as served, served.client() as api:  # fmt: skip
            found = checks_of(api)
    assert found["agent default"]["status"] == "ok"
    assert found["agent there"]["seen"].startswith("answers (HTTP ")
    assert found["agent gone"]["status"] == found["agent model"]["status"] == "warn"
    assert "cannot be reached" in found["agent gone"]["seen"]
