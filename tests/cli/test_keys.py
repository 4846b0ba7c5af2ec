"""`bamboo keys`, and what its keys do at a gateway that runs meanwhile."""

import json
import os
from pathlib import Path

import httpx
import pytest

from tests.cli.running import bamboo
from tests.processes import Gateway
from tests.support.waiting import until


def create(data_dir: Path, *arguments: str) -> dict[str, object]:
    ended = bamboo("keys", "create", "--json", "--data-dir", str(data_dir), *arguments)
    assert ended.returncode == 0, ended.stderr
    made: dict[str, object] = json.loads(ended.stdout)
    return made


def test_a_key_is_printed_once_opens_a_running_gateway_and_is_revoked(tmp_path: Path) -> None:
    # Waiting for a key is asking with it until it is known, however often that is.
    with Gateway(tmp_path, {"BAMBOO_AUTH_FAILURES_PER_ADDRESS": ""}) as gateway:
        where = ("--data-dir", str(gateway.data_dir))
        created = bamboo("keys", "create", "--user", "alice", "--name", "laptop", *where)
        assert created.returncode == 0, created.stderr
        key = created.stdout.strip()
        assert key.startswith("bamboo_")
        headers = {"Authorization": f"Bearer {key}"}

        def status(**sent: str) -> int:
            return gateway.http.get("/sessions", headers=sent).status_code

        until(lambda: status() == 401, "the gateway asks for a key")
        until(lambda: status(**headers) == 200, "the key opens")
        key_id = "key-" + key.split("_")[1]
        assert bamboo("keys", "revoke", key_id, *where).returncode == 0
        until(lambda: status(**headers) == 401, "the key is revoked")
        listed = bamboo("keys", "list", *where).stdout
        for word in (key_id, "revoked", "alice", "laptop", "read,write"):
            assert word in listed
        assert key not in listed
        assert gateway.stop() == 0
        gateway.start()
        assert status(**headers) == status() == 401
        assert key not in gateway.log
        assert key_id in gateway.log
        assert key.split("_")[2] not in (gateway.data_dir / "keys.json").read_text("utf-8")


def test_a_key_has_the_rights_that_were_asked_for(tmp_path: Path) -> None:
    create(tmp_path, "--service", "--rights", "read, admin", "--expires", "90d", "--name", "bot")
    create(tmp_path, "--user", "bob@example.com", "--expires", "2999-01-01T00:00:00Z")
    ended = bamboo("keys", "list", "--json", "--data-dir", str(tmp_path))
    first, second = map(json.loads, ended.stdout.splitlines())
    assert (first["user_id"], first["rights"], first["name"]) == (None, ["admin", "read"], "bot")
    assert first["expires_at"] > first["created_at"]
    assert (second["user_id"], second["rights"]) == ("bob@example.com", ["read", "write"])
    assert second["expires_at"] == "2999-01-01T00:00:00.000Z"
    assert "key" not in first


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["create"], 2, "--user"),
        (["create", "--user", "a", "--service"], 2, "--service"),
        (["create", "--user", "../a"], 1, "user id"),
        (["create", "--user", "a", "--rights", "root"], 2, "--rights"),
        (["create", "--user", "a", "--rights", ""], 2, "--rights"),
        (["create", "--user", "a", "--expires", "soon"], 2, "--expires"),
        (["create", "--user", "a", "--expires", "2000-01-01T00:00:00Z"], 2, "passed"),
        (["create", "--user", "a", "--name", "n" * 201], 2, "--name"),
        (["revoke", "key-unknown"], 1, "keys list"),
    ],
)
def test_a_wrong_option_is_one_line_and_changes_nothing(
    arguments: list[str], code: int, word: str, tmp_path: Path
) -> None:
    ended = bamboo("keys", *arguments, "--data-dir", str(tmp_path / "d"))
    assert ended.returncode == code
    (line,) = ended.stderr.strip().splitlines()
    assert word in line
    assert not (tmp_path / "d" / "keys.json").exists()


def test_a_key_that_is_pasted_is_revoked_by_its_id_and_not_shown(tmp_path: Path) -> None:
    made = create(tmp_path, "--user", "alice")
    ended = bamboo("keys", "revoke", str(made["key"]), "--data-dir", str(tmp_path))
    assert ended.returncode == 0
    assert str(made["id"]) in ended.stderr
    assert str(made["key"]) not in ended.stderr


def test_keys_that_are_made_and_revoked_are_in_the_audit_log_and_their_secrets_are_not(
    tmp_path: Path,
) -> None:
    made = create(tmp_path, "--user", "alice")
    where = ("--data-dir", str(tmp_path))
    assert bamboo("keys", "list", *where).returncode == 0
    assert bamboo("keys", "revoke", "key-unknown", *where).returncode == 1
    assert bamboo("keys", "revoke", str(made["id"]), *where).returncode == 0
    path = tmp_path / "audit.jsonl"
    assert path.stat().st_mode & 0o777 == 0o600
    created, revoked = map(json.loads, path.read_text("utf-8").splitlines())
    for record, action in ((created, "create-key"), (revoked, "revoke-key")):
        assert (record["action"], record["outcome"]) == (action, "done")
        assert (record["caller"], record["targets"]) == (f"uid:{os.getuid()}", [made["id"]])
    assert created["time"] == made["created_at"]
    assert str(made["key"]).split("_")[2] not in path.read_text("utf-8")


def test_a_key_that_cannot_be_recorded_is_made_with_a_notice(tmp_path: Path) -> None:
    audit_log = str(tmp_path / "missing" / "audit.jsonl")
    ended = bamboo(
        *("keys", "create", "--user", "a", "--data-dir", str(tmp_path)), BAMBOO_AUDIT_LOG=audit_log
    )
    assert ended.returncode == 0
    assert ended.stdout.startswith("bamboo_")
    assert audit_log in ended.stderr
    assert not (tmp_path / "audit.jsonl").exists()


def test_a_file_that_is_no_keys_file_is_neither_read_nor_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text("{ a slip", encoding="utf-8")
    for arguments in (["list"], ["create", "--user", "a"], ["revoke", "key-x"]):
        ended = bamboo("keys", *arguments, "--data-dir", str(tmp_path))
        assert ended.returncode == 1
        assert "keys.json" in ended.stderr
    assert path.read_text("utf-8") == "{ a slip"


def test_with_a_memory_store_the_keys_file_has_to_be_named(tmp_path: Path) -> None:
    ended = bamboo("keys", "list", BAMBOO_STORAGE_URL="memory:")
    assert ended.returncode == 2
    assert "api_keys_file" in ended.stderr
    ended = bamboo(
        "keys", "list", BAMBOO_STORAGE_URL="memory:", BAMBOO_API_KEYS_FILE=str(tmp_path / "k.json")
    )
    assert ended.returncode == 0


def test_a_file_others_may_write_stops_the_start_in_one_line(tmp_path: Path) -> None:
    create(tmp_path, "--user", "alice")
    (tmp_path / "keys.json").chmod(0o666)
    ended = bamboo("serve", "--port", "0", "--data-dir", str(tmp_path))
    assert ended.returncode != 0
    (line,) = ended.stderr.strip().splitlines()
    assert "chmod 600" in line


def test_an_address_others_can_reach_is_served_once_there_is_a_key(tmp_path: Path) -> None:
    made = create(tmp_path / "data", "--user", "alice")
    with Gateway(tmp_path, flags=["--host", "0.0.0.0"]) as gateway:
        assert (
            httpx.get(f"{gateway.url}/api/v1/sessions", trust_env=False, timeout=60).status_code
            == 401
        )
        headers = {"Authorization": f"Bearer {made['key']}"}
        assert gateway.http.get("/sessions", headers=headers).status_code == 200
