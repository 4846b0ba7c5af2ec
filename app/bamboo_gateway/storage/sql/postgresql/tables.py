"""The tables that only PostgreSQL has: several gateway processes share one database.

The statements on them are written by hand (`statements`, `tombstones`). This is what they expect,
beside the tables of `storage.sql.tables`, and what a test compares the schema with.

An *executor* is one gateway process, by an id that no other process ever has. Columns of that name
hold such an id; the process may be gone.
"""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    false,
)

from bamboo_gateway.storage.index.tables import IdText
from bamboo_gateway.storage.sql import tables

__all__ = ["api_keys", "database_metadata", "executors", "gone_keys", "presence", "session_epochs"]

# The shared tables with their PostgreSQL columns, and the tables below.
database_metadata: Final = MetaData(naming_convention=tables.events.metadata.naming_convention)
for _table in tables.events.metadata.sorted_tables:
    _table.to_metadata(database_metadata)

_sessions = database_metadata.tables["sessions"]
# Who executes the active run: null without one, and for an external run. See `head_row`.
_sessions.append_column(Column("executor", IdText))
_sessions.append_column(Column("run_id", Text))
# None of the three indexes changes while a run streams, so its commits update the row in place.
Index(None, _sessions.c.executor, postgresql_where=_sessions.c.executor.is_not(None))
# Queues that somebody has to start, and requests for input that expire.
Index(
    "ix_sessions_queues",
    _sessions.c.id,
    postgresql_where=_sessions.c.has_queue & (_sessions.c.has_active == false()),
)
# External runs, the most silent ones first.
Index(
    "ix_sessions_external_runs",
    _sessions.c.activity_slot,
    postgresql_where=_sessions.c.has_active & _sessions.c.executor.is_(None),
)
# Who works on it; null for a row of an earlier version.
database_metadata.tables["leftovers"].append_column(Column("executor", IdText))

# The gateway processes that use the database.
executors = Table(
    "executors",
    database_metadata,
    Column("executor", IdText, primary_key=True),
    # It moves with each heartbeat, and with each run that the process starts.
    Column("counter", BigInteger, nullable=False),
    # A small number that no other process has: which rows of `usage` it adds to.
    Column("slot", SmallInteger, nullable=False),
    # Host, process id and what tells whether it is gone, as JSON.
    Column("name", Text, nullable=False),
    # In ms by the database's clock.
    Column("started_at", BigInteger, nullable=False),
    Column("touched_at", BigInteger, nullable=False),
    UniqueConstraint("slot"),
)

# The greatest epoch that a session of this id was created with. A deletion leaves the row, so a
# creation that is sent again after it, or arrives late, creates nothing.
session_epochs = Table(
    "session_epochs",
    database_metadata,
    Column("id", IdText, primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    # When the session was deleted, in ms by the database's clock; null while it is there.
    Column("at", BigInteger),
)
Index(None, session_epochs.c.at, postgresql_where=session_epochs.c.at.is_not(None))

# The idempotency keys of deleted sessions, as `notes.key` has them, without their answers.
gone_keys = Table(
    "gone_keys",
    database_metadata,
    Column("session_id", IdText, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("session_id", "digest"),
)
Index(None, gone_keys.c.expires_at)

# Claims that live no longer than the process that made them (`storage.replicas.Presence`).
presence = Table(
    "presence",
    database_metadata,
    Column("session_id", IdText, nullable=False),
    Column("kind", IdText, nullable=False),
    Column("name", IdText, nullable=False),
    Column("executor", IdText, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("wish", Text),
    Column("touched_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("session_id", "kind", "name", "executor"),
)
Index(None, presence.c.executor, postgresql_where=presence.c.wish.is_not(None))

# The keys of the gateway's API (`credentials`), without their secrets, so that every process has
# the same ones. `meta.keys_version` counts their changes.
api_keys = Table(
    "api_keys",
    database_metadata,
    Column("id", IdText, primary_key=True),
    Column("digest", LargeBinary, nullable=False),
    Column("user_id", Text),
    # The names of the rights, as JSON.
    Column("rights", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
)
