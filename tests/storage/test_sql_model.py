"""R1 to R3, R9: a store in a database behaves like a dict that is durable, in any order of calls.

The rules are those of `test_model`. A kill is a copy of SQLite's files while they are open; of
PostgreSQL a store is only closed and opened again, and kills are in `tests/crash/`.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule, run_state_machine_as_test
from typing_extensions import override

from tests.storage.postgresql.conftest import make_store
from tests.storage.sqlite import support, vfs
from tests.storage.test_model import IDS, PROFILE, StoreMachine
from tests.support.postgres import GivenServer, PostgresServer

NewDatabase = Callable[[], AbstractContextManager[str]]


class SqlStoreMachine(StoreMachine):
    """The model beside a store in a database; no power is lost, as with durability "os"."""

    durability = "os"
    new_database: NewDatabase | None = None
    """Makes an empty PostgreSQL database, and yields its URL; None for SQLite."""

    def __init__(self) -> None:
        super().__init__()
        self.root.mkdir()
        self.path = self.root / "sessions.db"
        self.opened = ExitStack()
        make = type(self).new_database
        self.url = self.opened.enter_context(make()) if make is not None else None

    @override
    @initialize()
    def start(self) -> None:
        made = support.make(self.path) if self.url is None else make_store(self.url)
        self.store = made  # type: ignore[assignment]
        self.report = self.run(self.store.open())
        assert self.report.damaged == []

    @override
    @rule()
    def checkpoint(self) -> None:
        """Nothing: commits go into the tables."""

    @override
    @rule(session_id=IDS, ms=st.integers(1, 5000))
    def touch(self, session_id: str, ms: int) -> None:
        writer = self.writers.get(session_id)
        if writer is not None:
            writer.head.last_activity_at += ms
            writer.now_ms = writer.head.last_activity_at
            self.store.touch(session_id, writer.head.epoch, writer.head.last_activity_at)
            # It is durable with the end at the latest.
            self.restart()

    @override
    @precondition(lambda self: self.url is None)
    @rule()
    def kill(self) -> None:
        self.number += 1
        image = vfs.image_of(self.path, self.root / f"life-{self.number}")
        self.run(self.store.aclose())
        self.path = image
        self.start()

    @override
    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            self.opened.close()


def go_through(new_database: NewDatabase | None, *, examples: int, steps: int) -> None:
    made = None if new_database is None else staticmethod(new_database)
    machine = type("Machine", (SqlStoreMachine,), {"new_database": made})
    profile = settings(max_examples=examples, stateful_step_count=steps, **PROFILE)  # type: ignore[arg-type]
    run_state_machine_as_test(machine, settings=profile)


@pytest.fixture(params=["sqlite", "postgresql"])
def new_database(request: pytest.FixtureRequest) -> NewDatabase | None:
    if request.param == "sqlite":
        return None
    server: PostgresServer | GivenServer = request.getfixturevalue("postgres_server")

    @contextmanager
    def make() -> Iterator[str]:
        with server.database() as name:
            yield server.url(name)

    return make


def test_in_any_order_of_calls_the_store_behaves_like_a_durable_dict(
    new_database: NewDatabase | None,
) -> None:
    go_through(new_database, examples=15, steps=25)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_for_long_the_store_behaves_like_a_durable_dict(new_database: NewDatabase | None) -> None:
    go_through(new_database, examples=100, steps=50)
