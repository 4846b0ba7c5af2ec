"""The tables that lists need: sessions and their shares.

Several columns follow from `head`, which is the session's stored head (`SessionHead.to_json`, as
JSON): whoever writes it writes them too (`rows` makes them). Texts that people wrote are bytes in
UTF-8: PostgreSQL's text refuses NUL, and bytes have the order of Python's strings, whatever the
locale of the database. Ids are ASCII.

`head_state` has the group of each session: what its head decides of its state (`rows.Group`). Each
index of a list begins with it: lists without archived sessions, or by state, ask for some groups.

`last_activity_at` and `expires_at` move with every commit. No index has them: it has slots of
`SLOT_BITS` bits less, which stay the same for 16 s. So most commits change no index, and
PostgreSQL updates the row in place (HOT). Within a slot a list is sorted when it is read.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# The key of a row. SQLite makes a row's own number of it only when the type is INTEGER.
RowKey = BigInteger().with_variant(Integer(), "sqlite")
# An id is compared by code point. SQLite does so by itself.
IdText = Text().with_variant(Text(collation="C"), "postgresql")

sessions = Table(
    "sessions",
    metadata,
    # A session that is created again under an id gets a new key.
    Column("key", RowKey, Identity(), primary_key=True),
    Column("id", IdText, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    # Every commit moves it, also one that has nothing but notes.
    Column("version", BigInteger, nullable=False, server_default=text("0")),
    Column("seq", BigInteger, nullable=False),
    Column("user_id", IdText),
    Column("session_type", IdText, nullable=False),
    Column("parent_id", IdText),
    # The first ancestor, or the session itself.
    Column("root_id", IdText, nullable=False),
    Column("head_state", SmallInteger, nullable=False),
    Column("has_active", Boolean, nullable=False),
    Column("has_queue", Boolean, nullable=False),
    # In ms, as all times; null without a time to live.
    Column("expires_at", BigInteger),
    Column("expires_slot", BigInteger),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("last_activity_at", BigInteger, nullable=False),
    Column("activity_slot", BigInteger, nullable=False),
    Column("message_count", BigInteger, nullable=False),
    # The number of the last commit with an event that is no delta.
    Column("change_number", BigInteger, nullable=False, server_default=text("0")),
    # A digest of what `session_metadata` has of it; empty when that is nothing.
    Column("metadata_digest", LargeBinary, nullable=False, server_default=text("''")),
    # The title, and the title casefolded; empty without a title.
    Column("title_key", LargeBinary, nullable=False),
    Column("title_folded", LargeBinary, nullable=False),
    # The bytes of the log, unpacked; those that it takes as it is stored now; those of its deltas.
    Column("log_bytes", BigInteger, nullable=False, server_default=text("0")),
    Column("stored_bytes", BigInteger, nullable=False, server_default=text("0")),
    Column("delta_bytes", BigInteger, nullable=False, server_default=text("0")),
    Column("is_packed", Boolean, nullable=False, server_default=text("false")),
    # As of the last commit with a head: `seq` and `last_activity_at` may be newer. It is the last
    # column, since SQLite reads the columns behind a long one slowly.
    Column("head", LargeBinary, nullable=False),
    # Room for updates in place.
    postgresql_with={"fillfactor": 80},
    # A key is never given again.
    sqlite_autoincrement=True,
)

session_shares = Table(
    "session_shares",
    metadata,
    Column("user_id", IdText, nullable=False),
    Column("key", RowKey, nullable=False),
    # When the last share with this user ends; null when one of them does not end.
    Column("expires_at", BigInteger),
    PrimaryKeyConstraint("user_id", "key"),
    sqlite_with_rowid=False,
)

# The pairs of key and value that a session's metadata has, as digests (`metadata_pairs`).
session_metadata = Table(
    "session_metadata",
    metadata,
    Column("pair", LargeBinary, nullable=False),
    Column("key", RowKey, nullable=False),
    PrimaryKeyConstraint("pair", "key"),
    sqlite_with_rowid=False,
)

# The column that a list is sorted by first; `last_activity_at` is sorted within its slot.
SORT_COLUMNS = {
    "last_activity_at": sessions.c.activity_slot,
    "created_at": sessions.c.created_at,
    "updated_at": sessions.c.updated_at,
    "message_count": sessions.c.message_count,
    "title": sessions.c.title_key,
}

Index(None, sessions.c.id, unique=True)
for _column in SORT_COLUMNS.values():
    # The last column tells which sessions have expired, for lists by state.
    Index(None, sessions.c.head_state, _column, sessions.c.id, sessions.c.expires_slot)
    Index(
        None,
        sessions.c.user_id,
        sessions.c.head_state,
        _column,
        sessions.c.id,
        sessions.c.expires_slot,
    )
Index(None, sessions.c.change_number)
Index(None, sessions.c.root_id)
Index(None, sessions.c.session_type, sessions.c.head_state)
# Read as a whole, instead of the table, for parts of titles.
Index(None, sessions.c.title_folded, sessions.c.head_state)
for _column, _condition in (
    (sessions.c.parent_id, sessions.c.parent_id.is_not(None)),
    (sessions.c.expires_slot, sessions.c.expires_slot.is_not(None)),
    # Sessions with an open or queued run.
    (sessions.c.has_active, sessions.c.has_active | sessions.c.has_queue),
):
    Index(None, _column, postgresql_where=_condition, sqlite_where=_condition)
Index(None, session_shares.c.key)
Index(None, session_metadata.c.key)
_ends = session_shares.c.expires_at.is_not(None)
Index(None, session_shares.c.expires_at, postgresql_where=_ends, sqlite_where=_ends)
