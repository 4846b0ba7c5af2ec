"""API keys are in the database: every gateway with it accepts the same ones within a second."""

import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from bamboo_gateway.credentials.errors import CredentialsUnusable
from bamboo_gateway.credentials.gate import Gate
from bamboo_gateway.credentials.keyfile import KeyFile
from bamboo_gateway.credentials.keys import make_key
from bamboo_gateway.credentials.shared_keys import take_over
from bamboo_gateway.domain.api_keys import ApiKey
from bamboo_gateway.domain.errors import Unavailable
from bamboo_gateway.settings import Settings
from bamboo_gateway.storage.keys import ApiKeys, SupportsKeys
from bamboo_gateway.storage.sql.postgresql.database import make_database
from bamboo_gateway.storage.sql.postgresql.keys import keys_of
from bamboo_gateway.storage.sql.postgresql.store import PostgresStore
from bamboo_gateway.storage.sql.postgresql.target import Target
from tests.cli.running import bamboo
from tests.processes import Gateway, free_port
from tests.storage.writing import T0, StepClock
from tests.support.pgbouncer import pgbouncer
from tests.support.postgres import GivenServer, PostgresServer, execute
from tests.support.waiting import until, until_true


def made(user: str | None = "alice", name: str = "") -> tuple[ApiKey, str]:
    key_id, text, digest = make_key()
    return ApiKey(key_id, digest, user, frozenset({"read", "write"}), name, T0, T0 * 2), text


def keys_at(url: str) -> ApiKeys:
    return keys_of(Target(url))


def _both(one: ApiKey, other: ApiKey, _: object) -> list[ApiKey]:
    return [one, other]


def settings(data_dir: Path) -> Settings:
    return Settings(storage_url="postgresql:///x", data_dir=data_dir, insecure=True)


def test_a_database_that_no_gateway_has_used_has_no_keys_and_gets_the_first_one(
    postgres_url: str,
) -> None:
    keys, (key, _) = keys_at(postgres_url), made()
    assert (keys.version(), keys.read()) == (0, ())
    keys.change(lambda known: [*known, key])
    assert keys.read() == (key,)
    assert keys.version() == 1


def test_two_changes_at_once_are_both_kept(postgres_url: str) -> None:
    """Also those of the first keys, which make the tables."""
    all_made = [made(name=str(n))[0] for n in range(8)]
    with ThreadPoolExecutor(8) as threads:
        list(
            threads.map(
                lambda key: keys_at(postgres_url).change(lambda known: [*known, key]), all_made
            )
        )
    keys = keys_at(postgres_url)
    assert {key.id for key in keys.read()} == {key.id for key in all_made}
    assert keys.version() == len(all_made)


def test_a_change_that_fails_changes_nothing(postgres_url: str) -> None:
    keys, (key, _) = keys_at(postgres_url), made()
    keys.change(lambda known: [*known, key])

    def fail(known: object) -> list[ApiKey]:
        raise LookupError

    with pytest.raises(LookupError):
        keys.change(fail)
    assert keys.read() == (key,)
    assert keys.version() == 1


async def test_an_open_store_and_a_command_see_each_others_changes(
    postgres_server: PostgresServer | GivenServer, postgres_database: str
) -> None:
    """The store through PgBouncer, and the command beside it."""
    url = postgres_server.url(postgres_database)
    with pgbouncer(postgres_server) as port:
        through = postgres_server.url(postgres_database, port)
        store = PostgresStore(make_database(through, None), StepClock())
        await store.open()
        assert isinstance(store, SupportsKeys)
        (one, _), (other, _) = made(), made(None)
        store.api_keys.change(lambda known: [*known, one])
        keys_at(url).change(lambda known: [*known, other])
        assert set(store.api_keys.read()) == {one, other}
        keys_at(url).change(lambda known: [key for key in known if key != one])
        assert store.api_keys.read() == (other,)
        assert store.api_keys.version() == 3
        await store.aclose()


def test_of_several_keys_files_one_is_taken_over_as_a_whole(
    postgres_url: str, tmp_path: Path
) -> None:
    files = [KeyFile(tmp_path / str(n) / "keys.json") for n in range(4)]
    sets = {}
    for file in files:
        one, other = made()[0], made(None)[0]
        file.change(partial(_both, one, other))
        sets[file.path] = {one, other}
    keys = keys_at(postgres_url)
    with ThreadPoolExecutor(4) as threads:
        took = list(threads.map(lambda file: take_over(keys_at(postgres_url), file.path), files))
    assert took.count(True) == 1
    assert set(keys.read()) == sets[files[took.index(True)].path]


def test_a_keys_file_that_others_can_write_is_not_taken_over(
    postgres_url: str, tmp_path: Path
) -> None:
    file = KeyFile(tmp_path / "keys.json")
    file.change(lambda _: [made()[0]])
    file.path.chmod(0o666)
    with pytest.raises(CredentialsUnusable, match="chmod 600"):
        take_over(keys_at(postgres_url), file.path)
    assert keys_at(postgres_url).version() == 0


async def test_two_gates_accept_a_key_and_refuse_it_after_its_end(
    postgres_url: str, tmp_path: Path
) -> None:
    keys, clock, (key, text) = keys_at(postgres_url), StepClock(), made()
    keys.change(lambda _: [])
    one = Gate(settings(tmp_path / "one"), clock, shared_keys=keys_at(postgres_url))
    other = Gate(settings(tmp_path / "other"), clock, shared_keys=keys_at(postgres_url))
    assert not one.is_open
    with pytest.raises(Unavailable):
        one.check_loaded()
    async with one, other:
        gates = (one, other)
        assert not any(gate.is_open for gate in gates)
        assert one.bearer(text.encode(), None) is None
        keys.change(lambda known: [*known, key])
        await until_true(lambda: all(gate.bearer(text.encode(), None) for gate in gates))
        assert await one.forget_keys_of("alice", dry_run=True) == 1
        assert await one.forget_keys_of("alice") == 1
        assert one.bearer(text.encode(), None) is None
        await until_true(lambda: other.bearer(text.encode(), None) is None)
    assert keys.read() == ()


async def test_a_gate_takes_over_its_keys_file_and_forgets_a_user_there_too(
    postgres_url: str, tmp_path: Path
) -> None:
    file, (key, text), (bob, _) = KeyFile(tmp_path / "keys.json"), made(), made("bob")
    file.change(lambda _: [key, bob])
    async with Gate(settings(tmp_path), StepClock(), shared_keys=keys_at(postgres_url)) as gate:
        assert gate.bearer(text.encode(), None) is not None
        assert await gate.forget_keys_of("alice") == 1
    assert file.read() == (bob,)
    assert keys_at(postgres_url).read() == (bob,)


async def test_without_any_key_a_gate_is_open_until_the_first_one(
    postgres_url: str, tmp_path: Path
) -> None:
    async with Gate(settings(tmp_path), StepClock(), shared_keys=keys_at(postgres_url)) as gate:
        assert gate.is_open
        keys_at(postgres_url).change(lambda _: [made()[0]])
        await until_true(lambda: not gate.is_open)
        keys_at(postgres_url).change(lambda _: [])
        assert not gate.is_open


def test_keys_are_made_before_the_first_start_and_revoked_at_a_running_gateway(
    tmp_path: Path, postgres_url: str
) -> None:
    where = {"BAMBOO_STORAGE_URL": postgres_url, "BAMBOO_DATA_DIR": str(tmp_path / "cli")}
    assert bamboo("keys", "list", **where).stdout == ""
    created = bamboo("keys", "create", "--user", "alice", **where)
    assert created.returncode == 0, created.stderr
    key = created.stdout.strip()
    [listed] = bamboo("keys", "list", "--json", **where).stdout.splitlines()
    key_id = json.loads(listed)["id"]
    headers = {"Authorization": f"Bearer {key}"}
    flags = ["--storage-url", postgres_url, "--host", "0.0.0.0"]
    with Gateway(tmp_path, {"BAMBOO_AUTH_FAILURES_PER_ADDRESS": ""}, flags=flags) as gateway:
        status = lambda: gateway.http.get("/sessions", headers=headers).status_code  # noqa: E731
        assert status() == 200
        assert gateway.http.get("/sessions").status_code == 401
        revoked = bamboo("keys", "revoke", key_id, **where)
        assert revoked.returncode == 0, revoked.stderr
        until(lambda: status() == 401, "the key is revoked")
        assert gateway.stop() == 0
        assert not (gateway.data_dir / "keys.json").exists()
        assert key not in gateway.log
    [(digest,)] = execute(postgres_url, "SELECT digest FROM api_keys")
    assert key.encode() not in bytes(digest)


def test_nobody_else_reaches_a_gateway_without_keys(tmp_path: Path, postgres_url: str) -> None:
    """It is known only once the database is open."""
    ended = bamboo(
        *("serve", "--port", str(free_port()), "--host", "0.0.0.0"),
        BAMBOO_STORAGE_URL=postgres_url,
        BAMBOO_DATA_DIR=str(tmp_path),
    )
    assert ended.returncode == 2
    assert "bamboo keys create" in ended.stderr


def test_a_named_keys_file_is_read_in_place_of_the_database(
    tmp_path: Path, postgres_url: str
) -> None:
    file = tmp_path / "named.json"
    where = {
        "BAMBOO_STORAGE_URL": postgres_url,
        "BAMBOO_DATA_DIR": str(tmp_path),
        "BAMBOO_API_KEYS_FILE": str(file),
    }
    assert bamboo("keys", "create", "--user", "alice", **where).returncode == 0
    assert len(KeyFile(file).read()) == 1
    assert keys_at(postgres_url).version() == 0


def test_keys_move_with_the_data_into_a_database_and_back(
    tmp_path: Path, postgres_url: str
) -> None:
    with Gateway(tmp_path) as gateway:
        gateway.call("POST", "/sessions", json={"id": "s1"})
        assert gateway.stop() == 0
    kept = KeyFile(gateway.data_dir / "keys.json")
    kept.change(lambda _: [made()[0]])
    empty = ("--data-dir", str(tmp_path / "none"))
    moved = bamboo("migrate", "data", f"jsonl:{gateway.data_dir}", postgres_url, *empty)
    assert moved.returncode == 0, moved.stderr
    assert "Copied too: the API keys." in moved.stdout
    assert keys_at(postgres_url).read() == kept.read()
    back = bamboo("migrate", "data", postgres_url, f"jsonl:{tmp_path / 'back'}", *empty)
    assert back.returncode == 0, back.stderr
    assert KeyFile(tmp_path / "back" / "keys.json").read() == kept.read()


def test_a_key_that_is_made_before_the_first_start_is_in_the_audit_log(
    postgres_url: str, tmp_path: Path
) -> None:
    directory = tmp_path / "not" / "there"
    done = bamboo(
        "keys", "create", "--user", "ann", "--data-dir", str(directory),
        BAMBOO_STORAGE_URL=postgres_url,
    )  # fmt: skip
    assert (done.returncode, "not recorded" in done.stderr) == (0, False)
    (record,) = (directory / "audit.jsonl").read_text("utf-8").splitlines()
    assert json.loads(record)["action"] == "create-key"
    assert directory.stat().st_mode & 0o777 == 0o700
