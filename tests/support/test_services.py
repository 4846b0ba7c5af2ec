"""The servers that tests start: they end with the tests, and their proxy cuts where it is told."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from tests.processes import REPOSITORY, lacking
from tests.support.postgres import GivenServer, PostgresServer, binaries, execute, found_binaries
from tests.support.postgres_proxy import Cut, PostgresProxy
from tests.support.waiting import until

OWNER = """
import os
from tests.support.postgres import own_server
with own_server() as server:
    print(server.run("SELECT pg_backend_pid()")[0][0], server.directory, flush=True)
    os.read(0, 1)
"""

Server = PostgresServer | GivenServer


def test_a_server_ends_and_its_files_go_when_the_tests_are_killed():
    binaries()
    tests = subprocess.Popen(
        [sys.executable, "-c", OWNER], cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert tests.stdin is not None
    assert tests.stdout is not None
    with tests.stdin, tests.stdout:
        line = tests.stdout.readline().decode().split()
        directory = Path(line[1])
        postmaster = int((directory / "data" / "postmaster.pid").read_text().split()[0])
        tests.kill()
        tests.wait()
        until(lambda: not _lives(postmaster), "the server has ended")
        until(lambda: not directory.exists(), "its directory is gone")


def test_every_test_has_an_empty_database(postgres_server: Server, postgres_database: str):
    tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
    assert postgres_server.run(tables, postgres_database) == [(0,)]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT, signal.SIGKILL])
def test_a_server_can_be_ended_in_every_way_and_started_again(
    own_postgres: PostgresServer, how: signal.Signals
):
    own_postgres.run("CREATE TABLE kept (x int)")
    own_postgres.restart(how)
    assert own_postgres.run("SELECT count(*) FROM kept") == [(0,)]
    own_postgres.run("DROP TABLE kept")


def test_pgbouncer_gives_each_transaction_any_connection(
    postgres_server: Server, postgres_database: str, pgbouncer_port: int
):
    url = postgres_server.url(postgres_database, pgbouncer_port)
    with psycopg.connect(url, autocommit=True) as one, psycopg.connect(url, autocommit=True) as two:
        one.execute("SET work_mem = '123kB'")
        assert two.execute("SHOW work_mem").fetchone() == ("123kB",)


@pytest.mark.parametrize(("where", "kept"), [(Cut.BEFORE, 0), (Cut.BETWEEN, 1), (Cut.AFTER, 1)])
def test_the_proxy_cuts_a_statement_where_it_is_told(
    postgres_server: Server, postgres_database: str, where: Cut, kept: int
):
    if not isinstance(postgres_server, PostgresServer):
        lacking("a server of its own, for a proxy in front")
    with PostgresProxy(postgres_server.port) as proxy:
        url = postgres_server.url(postgres_database, proxy.port)
        execute(url, "CREATE TABLE kept (x int)")
        proxy.cut_nth(1, where)
        with pytest.raises(psycopg.OperationalError), psycopg.connect(url, autocommit=True) as one:
            one.execute("INSERT INTO kept VALUES (%s)", [1], prepare=False)
        until(
            lambda: execute(url, "SELECT count(*) FROM kept") == [(kept,)],
            "the server has done what it read",
        )
        assert proxy.cuts == 1


def test_binaries_are_found_where_debian_puts_them():
    found = found_binaries()
    assert found is None or os.access(found / "postgres", os.X_OK)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
