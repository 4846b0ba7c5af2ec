"""The table that searches look at: a row for each message with text.

A row is invisible unless its session's row exists, and its seq is not behind the session's. Rows
are written and deleted like any others: the trigram index follows by itself, in PostgreSQL as an
index (`pg_trgm`), in SQLite by triggers.
"""

from typing import Final

from sqlalchemy import BigInteger, Column, Identity, Index, Table, Text, UniqueConstraint

from bamboo_gateway.storage.index.tables import IdText, RowKey, metadata

search_messages = Table(
    "search_messages",
    metadata,
    Column("number", RowKey, Identity(), primary_key=True),
    Column("session_key", RowKey, nullable=False),
    Column("session_id", IdText, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("user_id", IdText),
    Column("role", IdText, nullable=False),
    # In ms.
    Column("created_at", BigInteger, nullable=False),
    # The text and marks of the message (`search_code.encoded_message`). It is ASCII.
    Column("code", Text().with_variant(Text(collation="C"), "postgresql"), nullable=False),
    UniqueConstraint("session_key", "seq"),
)

_ORDER = (
    search_messages.c.created_at,
    search_messages.c.session_id,
    search_messages.c.seq,
)
Index("ix_search_messages_time", *_ORDER)
Index("ix_search_messages_owner_time", search_messages.c.user_id, *_ORDER)

# FTS5 keeps which messages have a trigram (`detail=none`), and no copy of the text. A deleted row
# is marked, and its number leaves the lists of its trigrams when parts of the index are merged. The
# option `secure-delete` of FTS5 does not change that for a table without content.
SQLITE_DDL: Final = (
    "CREATE VIRTUAL TABLE search_grams USING fts5(code, content='', contentless_delete=1,"
    " detail=none, tokenize='trigram case_sensitive 1')",
    "CREATE TRIGGER search_messages_added AFTER INSERT ON search_messages BEGIN"
    " INSERT INTO search_grams(rowid, code) VALUES (new.number, new.code); END",
    "CREATE TRIGGER search_messages_deleted AFTER DELETE ON search_messages BEGIN"
    " DELETE FROM search_grams WHERE rowid = old.number; END",
    "CREATE TRIGGER search_messages_changed AFTER UPDATE OF code ON search_messages BEGIN"
    " DELETE FROM search_grams WHERE rowid = old.number;"
    " INSERT INTO search_grams(rowid, code) VALUES (new.number, new.code); END",
)
"""What SQLite needs beside the table: executed once, when the tables are created."""

SQLITE_ERASE: Final = "INSERT INTO search_grams(search_grams) VALUES ('optimize')"
"""Removes what deleted messages left in the trigram index. It rewrites the whole index."""

SQLITE_MERGE: Final = "INSERT INTO search_grams(search_grams, rank) VALUES ('merge', ?)"
"""Does the same in steps of some pages: the first with the negative number, then with the number,
until `total_changes` rises by less than 2."""

POSTGRESQL_DDL: Final = (
    # A trusted extension: whoever may create tables in the database may create it.
    "CREATE EXTENSION IF NOT EXISTS pg_trgm",
    "CREATE INDEX ix_search_messages_code ON search_messages USING gin (code gin_trgm_ops)",
)
"""What PostgreSQL needs beside the table."""
