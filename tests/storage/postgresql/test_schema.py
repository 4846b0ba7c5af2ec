"""The schema and its revisions: what Alembic makes is what the statements expect."""

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, pool

from bamboo_gateway.domain import codec
from bamboo_gateway.storage.base import StoreBusy, StoreUnusable
from bamboo_gateway.storage.sql.contents import files_metadata
from bamboo_gateway.storage.sql.postgresql import schema
from bamboo_gateway.storage.sql.postgresql.connections import connect
from bamboo_gateway.storage.sql.postgresql.migrate import migrate
from bamboo_gateway.storage.sql.postgresql.tables import database_metadata
from bamboo_gateway.storage.sql.postgresql.target import Target
from tests.processes import REPOSITORY, environment
from tests.storage.postgresql.conftest import make_store, open_store
from tests.storage.writing import T0, Writer, bodies_of, committed, everything, message, run_start
from tests.support import prefork
from tests.support.postgres import execute

# A revision as a later version would bring it.
NEXT = """
from alembic import op
revision = "0003"
down_revision = "0002"

def upgrade() -> None:
    op.execute("ALTER TABLE sessions ADD COLUMN note_count BIGINT NOT NULL DEFAULT 7")

def downgrade() -> None:
    op.execute("ALTER TABLE sessions DROP COLUMN note_count")
"""


def tables_of(url: str) -> set[str]:
    rows = execute(url, "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'")
    return {name for (name,) in rows}


def differences(url: str) -> list[Any]:
    """Return what differs between a database and the tables that the statements are made for."""
    engine = create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(url), poolclass=pool.NullPool
    )
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "compare_type": True,
                "compare_server_default": True,
                # Its operator class is no part of the tables.
                "include_object": lambda _, name, *__: name != "ix_search_messages_code",
            },
        )
        both: Any = [database_metadata, files_metadata]
        found: list[Any] = compare_metadata(context, both)
    engine.dispose()
    return found


def test_the_revisions_that_the_program_knows_are_those_of_its_package():
    config = Config()
    directory = Path(schema.__file__).with_name("migrations")
    config.set_main_option("script_location", str(directory))
    scripts = ScriptDirectory.from_config(config)
    walked = [script.revision for script in scripts.walk_revisions()]
    assert tuple(reversed(walked)) == schema.REVISIONS


def test_an_upgrade_from_nothing_makes_the_tables_that_the_statements_expect(postgres_url: str):
    change = migrate(Target(postgres_url), None, is_dry=False)
    assert (change.before, change.after) == (None, schema.REVISIONS[-1])
    assert differences(postgres_url) == []
    assert migrate(Target(postgres_url), None, is_dry=False).before == schema.REVISIONS[-1]


def test_a_downgrade_to_nothing_leaves_nothing_and_can_be_undone(postgres_url: str):
    target = Target(postgres_url)
    migrate(target, None, is_dry=False)
    change = migrate(target, "base", is_dry=False)
    assert (change.before, change.after) == (schema.REVISIONS[-1], None)
    assert tables_of(postgres_url) == {"alembic_version"}
    migrate(target, None, is_dry=False)
    assert differences(postgres_url) == []


def test_a_dry_run_changes_nothing_and_its_sql_does_what_the_upgrade_does(postgres_url: str):
    change = migrate(Target(postgres_url), None, is_dry=True)
    assert tables_of(postgres_url) == set()
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(change.script)
    assert differences(postgres_url) == []
    with connect(Target(postgres_url)) as connection:
        assert schema.revision_of(connection) == schema.REVISIONS[-1]


async def test_an_upgrade_and_a_downgrade_keep_the_sessions(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    writer = Writer("kept", T0)
    commit = writer.commit(message("m1"))
    async with open_store(postgres_url) as store:
        await committed(store, commit)
    _add_revision(monkeypatch, tmp_path)
    target = Target(postgres_url)
    assert migrate(target, None, is_dry=False).after == "0003"
    assert execute(postgres_url, "SELECT note_count FROM sessions") == [(7,)]
    assert migrate(target, "0002", is_dry=False).after == "0002"
    monkeypatch.undo()
    async with open_store(postgres_url) as store:
        found = [record.body for record in await everything(store, "kept")]
    assert found == bodies_of(commit)


async def test_runs_that_were_open_at_the_upgrade_are_those_of_no_living_process(postgres_url: str):
    async with open_store(postgres_url) as store:
        for session_id, agent in (("own", "default"), ("others", "external")):
            writer = Writer(session_id, T0)
            writer.head.metadata["odd"] = "\0 \\u0000"
            await committed(store, writer.commit(message("m1")))
            start = run_start(f"run-{session_id}") | {"agent": agent}
            await committed(store, writer.commit(start))
        await committed(store, Writer("idle", T0).commit(message("m1")))
    target = Target(postgres_url)
    migrate(target, "0001", is_dry=False)
    migrate(target, None, is_dry=False)
    assert execute(postgres_url, "SELECT id, run_id, executor FROM sessions ORDER BY id") == [
        ("idle", None, None),
        ("others", "run-others", None),
        ("own", "run-own", "nobody"),
    ]


async def test_a_downgrade_leaves_heads_that_an_earlier_version_reads(postgres_url: str):
    async with open_store(postgres_url) as store:
        writer = Writer("own", T0)
        writer.head.metadata["odd"] = "\0 \\u0000"
        await committed(store, writer.commit(message("m1")))
        commit = writer.commit(run_start("run"))
        assert commit.head is not None
        assert commit.head.active is not None
        commit.head.active.executor = store.replicas.executor
        commit.head.active.wish = {"type": "cancelled", "run_id": "run", "of": {"odd": '}"'}}
        await committed(store, commit)
    migrate(Target(postgres_url), "0001", is_dry=False)
    [(body,)] = execute(postgres_url, "SELECT head FROM sessions")
    stored = codec.decode(bytes(body))
    assert stored["metadata"] == {"odd": "\0 \\u0000"}
    assert set(stored["active"]) == {
        "run_id",
        "agent",
        "start_seq",
        "before_seq",
        "started_at",
        "model",
    }


async def test_an_upgrade_leaves_statistics_for_the_scans(postgres_url: str):
    """Without them each scan would read all sessions."""
    async with open_store(postgres_url) as store:
        await committed(store, Writer("s", T0).commit(message("m1")))
    target = Target(postgres_url)
    migrate(target, "0001", is_dry=False)
    migrate(target, None, is_dry=False)
    assert execute(
        postgres_url,
        "SELECT null_frac FROM pg_stats WHERE tablename = 'sessions' AND attname = 'executor'",
    ) == [(1.0,)]


async def test_an_older_schema_stops_the_start_with_the_command_to_run(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    migrate(Target(postgres_url), None, is_dry=False)
    _add_revision(monkeypatch, tmp_path)
    with pytest.raises(StoreUnusable, match=r"older version.*`bamboo migrate schema`"):
        await make_store(postgres_url).open()


async def test_a_newer_schema_stops_the_start_and_is_left_alone(postgres_url: str):
    migrate(Target(postgres_url), None, is_dry=False)
    execute(postgres_url, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreUnusable, match="9999 of a newer version"):
        await make_store(postgres_url).open()
    with pytest.raises(StoreUnusable, match="9999 of a newer version"):
        migrate(Target(postgres_url), None, is_dry=False)


async def test_the_tables_of_another_program_are_left_alone(postgres_url: str):
    execute(postgres_url, "CREATE TABLE sessions (x int)")
    with pytest.raises(StoreUnusable, match="another program"):
        await make_store(postgres_url).open()
    assert tables_of(postgres_url) == {"sessions"}


async def test_an_empty_table_of_versions_is_an_empty_database(postgres_url: str):
    """As a downgrade to nothing leaves it, or a program that was uninstalled."""
    execute(postgres_url, "CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY)")
    with connect(Target(postgres_url)) as connection:
        assert schema.revision_of(connection) is None
    async with open_store(postgres_url) as store:
        assert (await store.stats())["sessions"] == 0
    assert differences(postgres_url) == []


@pytest.mark.parametrize("what", ["DELETE FROM alembic_version", "DROP TABLE alembic_version"])
async def test_tables_whose_version_was_lost_are_not_taken_for_those_of_another_program(
    what: str, postgres_url: str
):
    migrate(Target(postgres_url), None, is_dry=False)
    execute(postgres_url, what)
    with pytest.raises(StoreUnusable, match=r"alembic_version.*[Rr]estore"):
        await make_store(postgres_url).open()
    with pytest.raises(StoreUnusable, match=r"alembic_version.*[Rr]estore"):
        migrate(Target(postgres_url), None, is_dry=False)
    assert len(tables_of(postgres_url)) > 1


async def test_versions_of_another_program_are_left_alone(postgres_url: str):
    execute(postgres_url, "CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY)")
    execute(postgres_url, "INSERT INTO alembic_version VALUES ('ae1027a6acf')")
    with pytest.raises(StoreUnusable, match="another program"):
        await make_store(postgres_url).open()
    assert tables_of(postgres_url) == {"alembic_version"}


async def test_a_failed_upgrade_changes_nothing(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    migrate(Target(postgres_url), None, is_dry=False)
    broken = NEXT.replace("DEFAULT 7", "DEFAULT 7; SELECT 1 / 0")
    _add_revision(monkeypatch, tmp_path, broken)
    with pytest.raises(StoreUnusable, match="division by zero"):
        migrate(Target(postgres_url), None, is_dry=False)
    assert differences(postgres_url) == []


async def test_an_upgrade_waits_for_no_gateway_and_disturbs_none(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async with open_store(postgres_url):
        _add_revision(monkeypatch, tmp_path)
        with pytest.raises(StoreBusy):
            migrate(Target(postgres_url), None, is_dry=False)
    assert differences(postgres_url) == []


def test_processes_that_find_an_empty_database_create_its_tables_once(postgres_url: str):
    variables = environment(BAMBOO_STORAGE_URL=postgres_url)

    def create(_: int) -> subprocess.CompletedProcess[str]:
        return prefork.run(["migrate", "schema"], variables, REPOSITORY, timeout=100)

    with ThreadPoolExecutor(4) as threads:
        for done in threads.map(create, range(4)):
            assert done.returncode == 0, done.stderr
    assert differences(postgres_url) == []


def _add_revision(monkeypatch: pytest.MonkeyPatch, directory: Path, text: str = NEXT) -> None:
    """Let the program be a later version, with one more revision."""
    (directory / "r0003_next.py").write_text(text)
    own = Path(schema.__file__).with_name("migrations")
    made = schema._config

    def config(*arguments: Any) -> Any:
        changed = made(*arguments)
        places = f"{own / 'versions'}{os.pathsep}{directory}"
        changed.set_main_option("path_separator", "os")
        changed.set_main_option("version_locations", places)
        return changed

    monkeypatch.setattr(schema, "_config", config)
    monkeypatch.setattr(schema, "REVISIONS", ("0001", "0002", "0003"))
