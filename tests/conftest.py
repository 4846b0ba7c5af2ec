"""What all tests share: where their files are, the event loop, how Hypothesis makes examples."""

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from tests.support.postgres import GivenServer, PostgresServer

# Tests start hundreds of interpreters. Where the environment forbids bytecode, each of them would
# compile the gateway again, and each run of pytest all tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Tests sync files tens of thousands of times. Waiting for a disk proves nothing, since none of them
# cuts the power: so their files are in memory, where that has room and lets programs run. Two
# processes of the suite hold up to 2 GB at a time, four of them twice that.
_MEMORY, _MEMORY_BYTES_MIN = Path("/dev/shm"), 6_000_000_000
if os.access(_MEMORY, os.W_OK):
    _status = os.statvfs(_MEMORY)
    if _status.f_bavail * _status.f_frsize >= _MEMORY_BYTES_MIN and not (
        _status.f_flag & os.ST_NOEXEC
    ):
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))

# By default structlog draws a traceback with all local variables in a frame, which takes 0.2 s.
for _processor in structlog.get_config()["processors"]:
    if isinstance(_processor, structlog.dev.ConsoleRenderer):
        _processor.exception_formatter = structlog.dev.plain_traceback

# How long an example takes says something about the machine, never about what is tested.
_PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
# `make test` tries the same examples each time, so that what fails is what was changed. New ones
# are looked for where finding something is the purpose: `make torture` names the other profile.
settings.register_profile("same", _PATIENT, derandomize=True, database=None)
settings.register_profile("new", _PATIENT)
settings.load_profile("same")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return how many processes `make test` takes: two more than there are cores.

    Tests that start programs wait for timers, files and each other's exits a third of their time,
    and one that waits leaves its core to the others.
    """
    return (os.cpu_count() or 1) + 2


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Collect garbage as the gateway itself does: what there is now stays until the end.

    The modules and items of all tests are half a million objects. Going through them again and
    again took a tenth of the suite's time, and most of what the tests took that look for garbage.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


@pytest.fixture
def anyio_backend() -> str:
    """The gateway runs under uvicorn, so asyncio is the only backend there is."""
    return "asyncio"


@pytest.fixture(scope="session")
def postgres_server() -> "Iterator[PostgresServer | GivenServer]":
    """PostgreSQL for all tests of this process; none of them ends it."""
    from tests.support.postgres import shared_server

    with shared_server() as server:
        yield server


@pytest.fixture(scope="module")
def own_postgres() -> "Iterator[PostgresServer]":
    """PostgreSQL for one module, whose tests may end it; each leaves it running."""
    from tests.support.postgres import own_server

    with own_server() as server:
        yield server


@pytest.fixture(scope="session")
def pgbouncer_port(postgres_server: "PostgresServer | GivenServer") -> Iterator[int]:
    """The port of a PgBouncer in front of `postgres_server`."""
    from tests.support.pgbouncer import pgbouncer

    with pgbouncer(postgres_server) as port:
        yield port


@pytest.fixture
def postgres_database(postgres_server: "PostgresServer | GivenServer") -> Iterator[str]:
    """The name of an empty database of one test."""
    with postgres_server.database() as name:
        yield name


@pytest.fixture
def postgres_url(postgres_server: "PostgresServer | GivenServer", postgres_database: str) -> str:
    """The URL of an empty database of one test."""
    return postgres_server.url(postgres_database)
