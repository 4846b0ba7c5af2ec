"""Where the database is, and how to log in there.

The settings name it by a URL, as `libpq` reads it: `postgresql://user@host:5432/database?sslmode=…`.
What the URL leaves out comes from libpq's own environment (`PGHOST`, `PGPASSWORD`, `PGPASSFILE`,
`PGSSLMODE`, `PGSERVICE`, …). A password may also come from a file, as containers are given one; it
is read for each connection, so it may be changed while the gateway runs.
"""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from bamboo_gateway.storage.base import StoreUnusable

# What a connection has unless the URL says otherwise. Only what a client decides for itself:
# PgBouncer refuses startup options that it does not know.
_DEFAULTS: Final[Mapping[str, Any]] = {
    "application_name": "bamboo-gateway",
    "client_encoding": "UTF8",
    "connect_timeout": 5,
    # A network that loses every packet says nothing. Without these a statement would wait for two
    # hours; with them a dead peer is noticed within half a minute.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
_PASSWORD_BYTES_MAX = 64 * 1024
# Parameters of libpq that no command line may show.
_SECRETS: Final = frozenset({"password", "sslpassword", "oauth_client_secret"})


class Target:
    """A database, and how to connect to it.

    Attributes:
        shown: The URL without anything secret, for messages.
    """

    def __init__(self, url: str, password_file: Path | None = None) -> None:
        """Read a URL; nothing is connected.

        Raises:
            StoreUnusable: It is no URL of a PostgreSQL database.
        """
        try:
            given = conninfo_to_dict(url)
        except psycopg.ProgrammingError:
            # libpq's message repeats the part that it cannot read, which may be a password. `from
            # None`, so that no traceback shows it either.
            raise StoreUnusable(
                "storage_url is no URL of a PostgreSQL database. It looks like "
                "postgresql://user@host:5432/database?sslmode=verify-full; special characters of "
                "a user or password are written as %xx."
            ) from None
        self._given = {name: value for name, value in given.items() if value is not None}
        self._password_file = password_file
        if "password" in self._given and password_file is not None:
            raise StoreUnusable(
                "storage_url has a password, and storage_password_file is set too: use one of them."
            )
        self.shown = _shown(self._given)

    def parameters(self) -> dict[str, Any]:
        """Return the parameters of a connection.

        Raises:
            StoreUnusable: The password file cannot be read.
        """
        parameters = {**_DEFAULTS, **self._given}
        if "," in str(parameters.get("host", "")):
            # Of several servers, the one that can be written to.
            parameters.setdefault("target_session_attrs", "read-write")
        if self._password_file is not None:
            parameters["password"] = self._password(self._password_file)
        return parameters

    def dump_command(self, file_name: str) -> str:
        """Return the command for a shell that dumps the database; it shows no password."""
        open_ones = {name: value for name, value in self._given.items() if name not in _SECRETS}
        place = make_conninfo("", **open_ones)
        words = ["pg_dump", "--format=custom", f"--file={file_name}", f"--dbname={place}"]
        command = shlex.join(words)
        if self._password_file is None:
            return command
        path = shlex.quote(str(self._password_file.expanduser()))
        return f'PGPASSWORD="$(cat {path})" {command}'

    def _password(self, path: Path) -> str:
        try:
            with path.expanduser().open("rb") as file:
                return file.read(_PASSWORD_BYTES_MAX).decode().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise StoreUnusable(
                f"storage_password_file {path} cannot be read: {reason}."
            ) from error


def _shown(given: Mapping[str, Any]) -> str:
    user = f"{given['user']}@" if "user" in given else ""
    host = str(given.get("host", given.get("hostaddr", "")))
    # A directory is where a socket lies.
    place = f"[{host}]" if ":" in host else host
    port = f":{given['port']}" if "port" in given else ""
    return f"postgresql://{user}{place}{port}/{given.get('dbname', '')}"
