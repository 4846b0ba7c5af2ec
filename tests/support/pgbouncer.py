"""A real PgBouncer in transaction mode, in front of a test's PostgreSQL."""

import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psycopg

from tests.processes import free_port, lacking
from tests.support.kept import Kept, ordinary_directory
from tests.support.postgres import GivenServer, PostgresServer, execute
from tests.support.waiting import until

START_SECONDS = 120.0

# Transactions of different clients share few connections, so that session state, if the gateway
# used any, would be seen by the wrong client. `max_prepared_statements` is 0 as it was the default
# for years: a prepared statement fails.
_CONFIGURATION = """\
[databases]
* = host={host} port={port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen_port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {directory}/users
pool_mode = transaction
default_pool_size = 4
max_client_conn = 200
server_reset_query_always = 0
server_login_retry = 1
"""


@contextmanager
def pgbouncer(server: PostgresServer | GivenServer) -> Iterator[int]:
    """Start a PgBouncer in front of a server; its port is yielded."""
    program = _found_program() or lacking("pgbouncer")
    behind = urlsplit(server.url())
    with ordinary_directory("pgb-") as directory:
        port = free_port()
        configuration = directory / "pgbouncer.ini"
        configuration.write_text(
            _CONFIGURATION.format(
                host=behind.hostname,
                port=behind.port or 5432,
                listen_port=port,
                directory=directory,
            ),
            encoding="utf-8",
        )
        users = [behind.username or "", behind.password or ""]
        quoted = ['"' + unquote(text).replace('"', '""') + '"' for text in users]
        (directory / "users").write_text(" ".join(quoted) + "\n", encoding="utf-8")
        # SIGTERM: at once. A client that is still there is the gateway of a test that failed.
        with Kept(
            [program, configuration], directory, directory / "log", end=signal.SIGTERM
        ) as kept:

            def answers() -> bool:
                assert kept.is_running, (directory / "log").read_text(errors="replace")
                try:
                    execute(server.url(port=port), "SELECT 1")
                except psycopg.OperationalError:
                    return False
                return True

            until(answers, "PgBouncer answers", START_SECONDS)
            yield port


@cache
def _found_program() -> str | None:
    # Debian has it where only root's PATH leads.
    found = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
    return found if found and Path(found).exists() else None
