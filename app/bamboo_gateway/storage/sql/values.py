"""Small values that the gateway keeps beside the sessions (`SessionStore.write_values`)."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from sqlalchemy import bindparam, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite

from bamboo_gateway.storage.index.statement import DialectName
from bamboo_gateway.storage.reports import ValueChange
from bamboo_gateway.storage.sql.database import Database
from bamboo_gateway.storage.sql.tables import kept_values
from bamboo_gateway.storage.values import check_keys, end_of

_REMOVE = delete(kept_values).where(
    kept_values.c.kind == bindparam("of_kind"), kept_values.c.key == bindparam("of_key")
)
_VALUE = select(kept_values.c.value).where(
    kept_values.c.kind == bindparam("of_kind"), kept_values.c.key == bindparam("of_key")
)
_VALUES = (
    select(kept_values.c.key, kept_values.c.value)
    .where(
        kept_values.c.kind == bindparam("of_kind"),
        kept_values.c.key > bindparam("after"),
        kept_values.c.key >= bindparam("from_key"),
        kept_values.c.key < bindparam("upto"),
    )
    .order_by(kept_values.c.key)
    .limit(bindparam("limit"))
)
_KINDS = select(kept_values.c.kind).distinct().order_by(kept_values.c.kind)
_BYTES = select(
    func.sum(
        func.length(kept_values.c.kind)
        + func.length(kept_values.c.key)
        + func.length(kept_values.c.value)
    )
)
# Until the transaction ends.
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(%(name)s, 0))"


@cache
def _put(dialect: DialectName) -> Any:
    # Both dialects have the same clause, and each an insert of its own.
    inserted = (postgresql if dialect == "postgresql" else sqlite).insert(kept_values)
    statement = inserted.values(
        kind=bindparam("of_kind"), key=bindparam("of_key"), value=bindparam("new_value")
    )
    return statement.on_conflict_do_update(
        index_elements=[kept_values.c.kind, kept_values.c.key],
        set_={"value": statement.excluded.value},
    )


class Values:
    """The table of values. All of it blocks."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def write(self, changes: Sequence[ValueChange]) -> None:
        """Write and remove values in one transaction; no two changes are of one key."""
        removed = [_names(change) for change in changes if change.value is None]
        put = [
            _names(change) | {"new_value": change.value}
            for change in changes
            if change.value is not None
        ]
        with self._database.writing() as connection:
            if removed:
                connection.run_each(_REMOVE, removed)
            if put:
                connection.run_each(_put(self._database.dialect), put)

    def change(
        self, kind: str, key: str, change: Callable[[bytes | None], bytes | None]
    ) -> bytes | None:
        """Change a value in one transaction, as `SessionStore.change_value`, in PostgreSQL."""
        check_keys([ValueChange(kind, key, None)])
        names = {"of_kind": kind, "of_key": key}
        with self._database.writing() as connection:
            # There may be no row yet that could be locked.
            connection.execute(_LOCK, {"name": f"{kind}/{key}"})
            rows = connection.rows(_VALUE, names)
            before = bytes(rows[0][0]) if rows else None
            after = change(before)
            if after is None:
                connection.run(_REMOVE, names)
            elif after != before:
                connection.run(_put(self._database.dialect), names | {"new_value": after})
        return after

    def value(self, kind: str, key: str) -> bytes | None:
        """Read a value, as `SessionStore.value`."""
        with self._database.reading() as connection:
            rows = connection.rows(_VALUE, {"of_kind": kind, "of_key": key})
        return bytes(rows[0][0]) if rows else None

    def values(self, kind: str, *, prefix: str, after: str, limit: int) -> list[tuple[str, bytes]]:
        """Read values, as `SessionStore.values`."""
        names = {"of_kind": kind, "after": after, "from_key": prefix, "upto": end_of(prefix)}
        with self._database.reading() as connection:
            rows = connection.rows(_VALUES, names | {"limit": limit})
        return [(str(key), bytes(value)) for key, value in rows]

    def kinds(self) -> list[str]:
        """Read all kinds, as `SessionStore.value_kinds`."""
        with self._database.reading() as connection:
            return [str(kind) for (kind,) in connection.rows(_KINDS)]

    def stored_bytes(self) -> int:
        """Return the bytes of all keys and values."""
        with self._database.reading() as connection:
            [(size,)] = connection.rows(_BYTES)
        return int(size or 0)


def _names(change: ValueChange) -> dict[str, Any]:
    return {"of_kind": change.kind, "of_key": change.key}
