"""Passwords and certificates, against real servers that ask for them."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from bamboo_gateway.storage.base import StoreUnusable
from bamboo_gateway.storage.sql.postgresql.database import PostgresDatabase
from bamboo_gateway.storage.sql.postgresql.target import Target
from bamboo_gateway.storage.sql.store import SqlStore
from tests.processes import Gateway, program
from tests.storage.postgresql.conftest import TIMING, make_store, open_store
from tests.storage.writing import T0, StepClock, Writer, committed, message
from tests.support.kept import ordinary_directory, ordinary_user
from tests.support.postgres import PASSWORD, USER, PostgresServer, execute
from tests.support.waiting import until

HOST = "db.example"


@pytest.fixture
def database(own_postgres: PostgresServer) -> Iterator[str]:
    with own_postgres.database() as name:
        yield name


def without_password(server: PostgresServer, database: str) -> str:
    return f"postgresql://{USER}@127.0.0.1:{server.port}/{database}"


def store_of(url: str, password_file: Path) -> SqlStore:
    target = Target(url, password_file)
    return SqlStore(PostgresDatabase(target, timing=TIMING, look_seconds=0.2), StepClock())


async def reason_of(store: SqlStore) -> str:
    """Return why a store cannot be opened: one line without a secret."""
    with pytest.raises(StoreUnusable) as error:
        await store.open()
    assert "\n" not in error.value.detail
    assert PASSWORD not in error.value.detail
    return error.value.detail


# -- passwords --------------------------------------------------------------------------------


def test_the_password_in_a_file_may_be_changed_while_the_gateway_runs(
    own_postgres: PostgresServer, database: str, tmp_path: Path
) -> None:
    admin = own_postgres.url(database)
    file = tmp_path / "password"
    file.write_text("the first\n")
    execute(admin, "CREATE ROLE changed LOGIN PASSWORD 'the first'")
    execute(admin, f"GRANT ALL ON DATABASE {database} TO changed")
    execute(admin, "GRANT ALL ON SCHEMA public TO changed")
    settings = {
        "BAMBOO_STORAGE_URL": f"postgresql://changed@127.0.0.1:{own_postgres.port}/{database}",
        "BAMBOO_STORAGE_PASSWORD_FILE": str(file),
    }
    end_all = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'changed'"
        " AND pid <> pg_backend_pid()"
    )
    try:
        with Gateway(tmp_path, settings) as gateway:
            gateway.call("POST", "/sessions", json={"id": "s"})
            execute(admin, "ALTER ROLE changed PASSWORD 'the second'")
            execute(admin, end_all)
            # The old one is refused, and said so; nothing is shown of it.
            until(
                lambda: gateway.http.get("/health/ready").status_code == 503,
                "the gateway is not ready",
            )
            file.write_text("the second\n")
            until(
                lambda: gateway.http.get("/health/ready").status_code == 200,
                "the gateway logs in with the new password",
            )
            gateway.call("POST", "/sessions", json={"id": "t"})
            gateway.call("GET", "/sessions/s")
        assert "the first" not in gateway.log
        assert "the second" not in gateway.log
    finally:
        execute(admin, "DROP OWNED BY changed")
        execute(admin, "DROP ROLE changed")


async def test_a_wrong_password_in_a_file_is_one_line(
    own_postgres: PostgresServer, database: str, tmp_path: Path
):
    file = tmp_path / "password"
    file.write_text("wrong-secret")
    reason = await reason_of(store_of(without_password(own_postgres, database), file))
    assert "password authentication failed" in reason
    assert "wrong-secret" not in reason
    assert "cannot be read" in await reason_of(
        store_of(without_password(own_postgres, database), tmp_path / "none")
    )


async def test_a_password_comes_from_the_password_file_of_libpq(
    own_postgres: PostgresServer,
    database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    url = without_password(own_postgres, database)
    file = tmp_path / "pgpass"
    monkeypatch.setenv("PGPASSFILE", str(file))
    assert "no password supplied" in await reason_of(make_store(url))
    file.write_text(f"127.0.0.1:{own_postgres.port}:*:{USER}:{PASSWORD}\n")
    file.chmod(0o600)
    async with open_store(url) as store:
        await committed(store, Writer("s1", T0).commit(message("m1")))


# -- TLS ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Certificates that sign themselves, by the name they are for; `stranger` is for `HOST` too."""
    place = tmp_path_factory.mktemp("certificates")
    return {name: _certificate(place / name, host) for name, host in _CERTIFICATES.items()}


_CERTIFICATES = {"right": HOST, "stranger": HOST, "other": "other.example"}


def _certificate(path: Path, host: str) -> Path:
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host}"]
    files = ["-keyout", f"{path}.key", "-out", f"{path}.pem"]
    command = [program("openssl"), "req", "-x509", "-days", "2", *key, *names, *files]
    subprocess.run(command, check=True, capture_output=True)
    return Path(f"{path}.pem")


@pytest.fixture(scope="module")
def tls_server(certificates: dict[str, Path]) -> Iterator[PostgresServer]:
    """A server that speaks TLS with the certificate `right`, and nothing else over TCP."""
    with ordinary_directory("pg-tls-") as directory:
        for ending, name in ((".pem", "server.pem"), (".key", "server.key")):
            file = directory / name
            file.write_bytes(certificates["right"].with_suffix(ending).read_bytes())
            file.chmod(0o600)
            if user := ordinary_user():
                os.chown(file, *user)
        settings = {
            "ssl": "on",
            "ssl_cert_file": str(directory / "server.pem"),
            "ssl_key_file": str(directory / "server.key"),
        }
        with PostgresServer(directory, settings) as server:
            yield server


def over_tls(server: PostgresServer, database: str, root: Path, host: str = HOST) -> str:
    where = f"{USER}:{quote(PASSWORD, safe='')}@{host}:{server.port}/{database}"
    return f"postgresql://{where}?hostaddr=127.0.0.1&sslmode=verify-full&sslrootcert={root}"


async def test_a_server_whose_certificate_is_checked_is_used_over_tls(
    tls_server: PostgresServer, certificates: dict[str, Path]
):
    with tls_server.database() as name:
        async with open_store(over_tls(tls_server, name, certificates["right"])) as store:
            await committed(store, Writer("s1", T0).commit(message("m1")))
            query = (
                "SELECT bool_and(ssl), count(*) > 0 FROM pg_stat_ssl JOIN pg_stat_activity "
                f"USING (pid) WHERE datname = '{name}' AND pid <> pg_backend_pid()"
            )
            assert execute(tls_server.url(name), query) == [(True, True)]


@pytest.mark.parametrize(
    ("root", "host", "reason"),
    [
        ("stranger", HOST, "certificate verify failed"),
        ("right", "other.example", "does not match host name"),
        ("none", HOST, "root certificate file"),
    ],
    ids=["signed by a stranger", "for another host", "nobody to trust"],
)
async def test_a_certificate_that_is_not_trusted_is_one_line(
    root: str,
    host: str,
    reason: str,
    tls_server: PostgresServer,
    certificates: dict[str, Path],
    tmp_path: Path,
):
    with tls_server.database() as name:
        trusted = certificates.get(root, tmp_path / "none.pem")
        found = await reason_of(make_store(over_tls(tls_server, name, trusted, host)))
        assert reason in found


async def test_a_server_without_tls_is_refused_where_tls_is_wanted(
    own_postgres: PostgresServer, database: str, certificates: dict[str, Path]
):
    url = over_tls(own_postgres, database, certificates["right"])
    assert "does not support SSL" in await reason_of(make_store(url))
