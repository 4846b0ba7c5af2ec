"""The row of `meta` that a database has while `bamboo migrate data` copies into it.

It is written before the first session, and removed after the last one is durable and everything was
compared. A gateway does not open a database that has it.
"""

from sqlalchemy import bindparam, delete, insert, select, update

from bamboo_gateway.storage.migration.unfinished import check_target, unfinished
from bamboo_gateway.storage.sql.database import Database
from bamboo_gateway.storage.sql.tables import meta

_IS_MARK = meta.c.name == "migration"
_FIND = select(meta.c.text).where(_IS_MARK)
_SET = insert(meta).values(name="migration", text=bindparam("origin"))
_REMOVE = delete(meta).where(_IS_MARK)
_RAISE_EPOCH = (
    update(meta)
    .where(meta.c.name == "last_epoch", meta.c.number < bindparam("epoch"))
    .values(number=bindparam("epoch"))
)


class MigrationMark:
    """The mark of one open database. All of it blocks."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._where = f"The {database.name} database"

    def check_absent(self) -> None:
        """Refuse a database that has the mark.

        Raises:
            StoreUnusable: It has.
        """
        with self._database.reading() as connection:
            for (origin,) in connection.rows(_FIND):
                raise unfinished(self._where, origin)

    def set(self, origin: str, sessions: int) -> None:
        """Mark the database, durably.

        Raises:
            StoreUnusable: It has another mark, or sessions without a mark.
        """
        with self._database.writing() as connection:
            known = next((text for (text,) in connection.rows(_FIND)), None)
            check_target(self._where, origin, known, sessions)
            if known is None:
                connection.run(_SET, {"origin": origin})

    def remove(self, last_epoch: int) -> None:
        """Remove the mark, durably, and give no epoch up to the last one again."""
        with self._database.writing() as connection:
            connection.run(_RAISE_EPOCH, {"epoch": last_epoch})
            connection.run(_REMOVE)
