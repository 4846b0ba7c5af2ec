"""Data of every earlier version opens in today's: every session, message and position is equal.

`python -m tests.upgrade.make NAME` makes the data of a release; docs/how-to/upgrade.md promises it.
"""

import json
import tarfile
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.cli.running import bamboo
from tests.processes import Gateway
from tests.upgrade.conversations import ARCHIVED, SETTINGS, seen
from tests.upgrade.make import BYTES_MAX, DATA, STORES

FILES = sorted(DATA.glob("*.tar.gz"))
UNRELEASED = sorted((DATA.parent / "unreleased").glob("*.tar.gz"))

_OF_NOW = frozenset({"state", "connections", "last_activity_at", "updated_at"})
"""What a session says of the present moment, not of its log."""


def store_of(file: Path) -> str:
    return file.name.removesuffix(".tar.gz").rpartition("-")[2]


@pytest.fixture
def unpacked(request: pytest.FixtureRequest, tmp_path: Path, file: Path) -> dict[str, str]:
    """Unpack the data of a version, and return the settings of a gateway for them."""
    settings = dict(SETTINGS)
    with tarfile.open(file) as archive:
        archive.extractall(tmp_path / "data", filter="data")
    match store_of(file):
        case "sqlite":
            settings["BAMBOO_STORAGE_URL"] = "sqlite:"
        case "postgresql":
            server = request.getfixturevalue("postgres_server")
            url = server.url(request.getfixturevalue("postgres_database"))
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute((tmp_path / "data" / "dump.sql").read_bytes())
            # The default of 5 s is too short for a start on a machine that is busy with tests.
            settings["BAMBOO_STORAGE_URL"] = f"{url}?connect_timeout=120"
        case _:
            pass
    return settings


@pytest.fixture
def upgraded(unpacked: dict[str, str], tmp_path: Path) -> Gateway:
    """Return a gateway of today over data of a version; it is not started yet."""
    if "postgresql" in unpacked.get("BAMBOO_STORAGE_URL", ""):
        ended = bamboo("migrate", "schema", **unpacked)
        assert ended.returncode == 0, ended.stderr
    return Gateway(tmp_path, unpacked)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name.removesuffix(".tar.gz"))
def test_r1_every_session_message_and_position_of_an_earlier_version_is_there(
    upgraded: Gateway, tmp_path: Path
) -> None:
    then = json.loads((tmp_path / "data" / "seen.json").read_text("utf-8"))
    with upgraded as gateway:
        now = seen(gateway.http)
        assert now.keys() == then.keys()
        for session_id, was in then.items():
            check_session(now[session_id], was)
        # The same after a regular end, and so from what today's version has written itself.
        assert gateway.stop() == 0
        gateway.start()
        again = seen(gateway.http)
        for session_id, was in now.items():
            check_session(again[session_id], was)
        check_that_it_goes_on(gateway, then)


@pytest.mark.parametrize("file", UNRELEASED, ids=store_of)
def test_a_database_from_before_the_first_schema_is_refused_with_what_to_do(
    unpacked: dict[str, str], tmp_path: Path
) -> None:
    unpacked["BAMBOO_DATA_DIR"] = str(tmp_path / "data")
    for command in (("serve", "--port", "0"), ("doctor",)):
        ended = bamboo(*command, **unpacked)
        assert ended.returncode in {1, 2}
        line = ended.stderr.strip().splitlines()[-1]
        assert "development version from before the first release" in line
        assert "bamboo migrate data FROM jsonl:/directory" in line


def check_session(now: dict[str, Any], was: dict[str, Any]) -> None:
    session = {name: value for name, value in was["session"].items() if name not in _OF_NOW}
    check_value(now["session"], session)
    for part in ("messages", "events"):
        check_value(now[part], was[part])


def check_value(now: Any, was: Any) -> None:
    """Check that a value is what it was; a later version may say more of the same thing."""
    if isinstance(was, dict):
        for name, value in was.items():
            check_value(now[name], value)
    elif isinstance(was, list):
        assert len(now) == len(was)
        for one_now, one_then in zip(now, was, strict=True):
            check_value(one_now, one_then)
    else:
        assert now == was


def check_that_it_goes_on(gateway: Gateway, then: dict[str, Any]) -> None:
    """Earlier conversations go on behind their last position; what was archived comes back."""
    before = then["plain"]["events"]
    chat = {"session_id": "plain", "message": "And today?"}
    gateway.call("POST", "/chat", json=chat, headers={"Prefer": "wait=30"})
    events = gateway.events("plain")
    check_value(events[: len(before)], before)
    assert len(events) > len(before)
    gateway.call("POST", f"/sessions/{ARCHIVED}/restore")
    said = gateway.call("GET", f"/sessions/{ARCHIVED}/messages")["messages"]
    assert said[0]["content"] == "To the shelf"


def test_the_data_of_every_stage_are_there_and_small() -> None:
    assert {store_of(file) for file in FILES} == set(STORES)
    assert all(file.stat().st_size <= BYTES_MAX for file in FILES)
