"""What the errors of PostgreSQL and of its driver mean for a store.

Errors are grouped by SQLSTATE (https://www.postgresql.org/docs/current/errcodes-appendix.html). The
server's own words are logged and not shown to clients: they may quote rows.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg
import structlog
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from bamboo_gateway.domain.errors import BambooError, StorageFailed, StorageFull, Unavailable
from bamboo_gateway.storage.base import StoreUnusable

log = structlog.get_logger(__name__)

# A restart takes a few seconds, a failover some more.
RETRY_SECONDS: Final = 2

# disk_full
_FULL: Final = frozenset({"53100"})
# The server cannot be talked to at present, or has ended this connection.
_NOT_THERE: Final = frozenset(
    {
        "53300",  # too_many_connections
        "57P01",  # admin_shutdown
        "57P02",  # crash_shutdown
        "57P03",  # cannot_connect_now: it starts, stops or recovers
        "57P05",  # idle_session_timeout
        "25P03",  # idle_in_transaction_session_timeout
        "25P04",  # transaction_timeout
    }
)
_READ_ONLY: Final = "25006"
# Others were in the way, or a limit of time was reached; nothing has changed.
_AGAIN: Final = frozenset(
    {
        "40001",  # serialization_failure
        "40P01",  # deadlock_detected
        "55P03",  # lock_not_available: lock_timeout
        "57014",  # query_canceled: statement_timeout
        "53200",  # out_of_memory
        "53400",  # configuration_limit_exceeded
    }
)
# One process was faster than another one; the same statement may succeed.
_REPEATABLE: Final = frozenset({"40001", "40P01"})


def is_lost(error: psycopg.Error) -> bool:
    """Return whether the connection is gone: a statement that was sent has an unknown outcome."""
    state = error.sqlstate
    if state is None:
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return state[:2] == "08" or state in _NOT_THERE


def is_read_only(error: psycopg.Error) -> bool:
    """Return whether the server takes no writes."""
    return error.sqlstate == _READ_ONLY


def is_repeatable(error: psycopg.Error) -> bool:
    """Return whether the same statement may succeed at once: it met another transaction."""
    return error.sqlstate in _REPEATABLE


def is_about_rows(error: psycopg.Error) -> bool:
    """Return whether a row was refused for what it contains, or for what is there already."""
    return (error.sqlstate or "")[:2] in {"21", "22", "23", "54"} or (
        error.sqlstate is None and isinstance(error, psycopg.DataError)
    )


def is_duplicate(error: psycopg.Error) -> bool:
    """Return whether a row is there already."""
    return error.sqlstate == "23505"


def unusable(shown: str, error: psycopg.Error) -> StoreUnusable:
    """Return why a database cannot be opened, in one line; `shown` names the database."""
    reason = error.diag.message_primary or (str(error).strip().splitlines() or ["?"])[0]
    if error.sqlstate == "42501":
        reason += "; the gateway's user has to own the database, or needs CREATE in its schema"
    return StoreUnusable(f"{shown} cannot be used: {reason}.")


def not_there() -> Unavailable:
    """Return the error of a database that does not answer."""
    return Unavailable(
        "The database does not answer at present. Retry in a moment.",
        retry_after_seconds=RETRY_SECONDS,
    )


def read_only() -> Unavailable:
    """Return the error of a database that takes no writes."""
    return Unavailable(
        "The database is read-only at present. Retry in a moment.",
        retry_after_seconds=RETRY_SECONDS,
    )


def translated(error: psycopg.Error) -> BambooError:
    """Return what a driver's error means."""
    state = error.sqlstate
    if is_lost(error):
        return not_there()
    log.warning("PostgreSQL refused a statement", sqlstate=state, reason=_words(error))
    if state in _FULL:
        return StorageFull("The database has no space left: nothing can be written.")
    if state == _READ_ONLY:
        return read_only()
    if state in _AGAIN:
        return Unavailable(
            "The database was too busy and has given up. Retry in a moment.",
            retry_after_seconds=RETRY_SECONDS,
        )
    return StorageFailed(f"The database refused to do this (SQLSTATE {state}).")


@contextmanager
def translating() -> Iterator[None]:
    """Raise what the block's driver errors mean."""
    try:
        yield
    except (PoolTimeout, PoolClosed, TooManyRequests) as error:
        raise not_there() from error
    except psycopg.Error as error:
        raise translated(error) from error


def _words(error: psycopg.Error) -> str:
    # The first line only: details quote rows.
    return error.diag.message_primary or type(error).__name__
