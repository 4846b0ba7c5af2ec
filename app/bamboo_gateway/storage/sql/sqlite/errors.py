"""What SQLite's errors mean to a store."""

from collections.abc import Iterator
from contextlib import contextmanager

import apsw

from bamboo_gateway.domain.errors import StorageFailed, StorageFull, Unavailable

FULL = "The disk is full: nothing can be written until there is space."


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Translate the errors of a block; `doing` begins the message, as in "Reading a session"."""
    try:
        yield
    except apsw.Error as error:
        raise error_of(error, doing) from error


def error_of(error: apsw.Error, doing: str) -> Unavailable:
    """Return what a store raises for an error of SQLite."""
    match error:
        case apsw.FullError():
            return StorageFull(FULL)
        case apsw.BusyError() | apsw.LockedError():
            return Unavailable(f"{doing} failed: another program holds the database locked.")
        case apsw.CorruptError() | apsw.NotADBError():
            return StorageFailed(
                f"{doing} failed: the database is damaged here. Stop the gateway and run "
                "`bamboo doctor`."
            )
        case _:
            return StorageFailed(f"{doing} failed: {_reason(error)}.")


def _reason(error: apsw.Error) -> str:
    return str(error).strip().rstrip(".") or type(error).__name__
