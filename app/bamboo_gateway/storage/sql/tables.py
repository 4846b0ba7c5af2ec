"""The tables of logs, beside those of `storage.index.tables`.

A log's rows belong to the `key` of its session, so a session that is created again under an id
never meets rows of its predecessor. Rows are visible as far as the session's row says:

* events, marks: with `seq` up to the session's `seq`
* notes: with `version` up to the session's `version`
* events when the session is not packed, archives when it is

So a large change (a creation, an extension, packing) writes its rows in short transactions, and one
that changes the session's row publishes all of them. A deletion removes the session's row first.
What is invisible is named in `leftovers`, before the first such row is written, until it is removed
or published.
"""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Identity,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
)

from bamboo_gateway.storage.commits import MarkKind
from bamboo_gateway.storage.index.search_tables import search_messages
from bamboo_gateway.storage.index.tables import IdText, RowKey, metadata

__all__ = [
    "MARK_KINDS", "archives", "events", "gone_sessions", "kept_values", "leftovers", "marks",
    "meta", "notes", "search_messages", "unsearched", "usage",
]  # fmt: skip

# What `marks.kind` has; a database has these numbers, so none changes. Notes have their own table.
MARK_KINDS: Final[dict[MarkKind, int]] = {"message": 1, "run": 2, "input": 3}

events = Table(
    "events",
    metadata,
    Column("session_key", RowKey, nullable=False),
    Column("seq", BigInteger, nullable=False),
    # Whether `compact` may remove it.
    Column("is_delta", Boolean, nullable=False),
    # The commit that brought the event, where its outcome may have to be looked up: a connection
    # to a server can break between a COMMIT and its answer. SQLite leaves it null.
    Column("commit_id", BigInteger),
    # Bytes and no JSON type: those refuse NUL, and return other bytes than they were given.
    Column("body", LargeBinary, nullable=False),
    PrimaryKeyConstraint("session_key", "seq"),
    # The rows of a log lie side by side, in the order that they are read.
    sqlite_with_rowid=False,
)

marks = Table(
    "marks",
    metadata,
    Column("session_key", RowKey, nullable=False),
    Column("kind", SmallInteger, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("key", LargeBinary, nullable=False),
    PrimaryKeyConstraint("session_key", "kind", "seq"),
    sqlite_with_rowid=False,
)
Index(None, marks.c.session_key, marks.c.kind, marks.c.key)

notes = Table(
    "notes",
    metadata,
    Column("session_key", RowKey, nullable=False),
    Column("seq", BigInteger, nullable=False),
    # The version of the commit, and the place in it: the order of notes of one seq.
    Column("version", BigInteger, nullable=False),
    Column("number", Integer, nullable=False),
    Column("key", LargeBinary, nullable=False),
    Column("commit_id", BigInteger),
    Column("body", LargeBinary, nullable=False),
    PrimaryKeyConstraint("session_key", "seq", "version", "number"),
    sqlite_with_rowid=False,
)
Index(None, notes.c.session_key, notes.c.key)

# The events of a packed session, in pieces that are each compressed (zstandard): consecutive
# events, as `packing` encodes them. One piece is all that a read has to decompress.
archives = Table(
    "archives",
    metadata,
    Column("session_key", RowKey, nullable=False),
    Column("last_seq", BigInteger, nullable=False),
    Column("first_seq", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
    PrimaryKeyConstraint("session_key", "last_seq"),
    sqlite_with_rowid=False,
)

# The number of sessions and their stored bytes, of each user and of all. A scope is `b""` for all,
# or `b"u"` and the user id. Processes that share a database add to different slots, so that they do
# not wait for one another's rows; the sum is what counts.
usage = Table(
    "usage",
    metadata,
    Column("scope", LargeBinary, nullable=False),
    Column("slot", SmallInteger, nullable=False),
    Column("sessions", BigInteger, nullable=False),
    Column("stored_bytes", BigInteger, nullable=False),
    PrimaryKeyConstraint("scope", "slot"),
    sqlite_with_rowid=False,
)

# The messages that searches do not find yet, written with them and removed by `search_index`. A seq
# of 0 means that the messages which a merge has replaced are to be removed.
unsearched = Table(
    "unsearched",
    metadata,
    Column("session_key", RowKey, nullable=False),
    Column("seq", BigInteger, nullable=False),
    PrimaryKeyConstraint("session_key", "seq"),
    sqlite_with_rowid=False,
)

# Work that has invisible rows, so that they are removed when it does not end (`leftovers`).
leftovers = Table(
    "leftovers",
    metadata,
    Column("number", RowKey, Identity(), primary_key=True),
    # One of `leftovers.Work`.
    Column("work", IdText, nullable=False),
    # Null for a creation, which writes rows under the key `-number`.
    Column("session_key", RowKey),
    # For a compaction: the deltas up to this seq are to be removed.
    Column("deltas_upto", BigInteger, nullable=False),
    # When its owner last wrote, in ms: a process that died leaves it behind.
    Column("touched_at", BigInteger, nullable=False),
    # A number names rows, so it is never given again.
    sqlite_autoincrement=True,
)
Index(None, leftovers.c.session_key)

# The last deletions, for those who ask what has changed: at most one of each id.
gone_sessions = Table(
    "gone_sessions",
    metadata,
    Column("session_id", IdText, primary_key=True),
    Column("change_number", BigInteger, nullable=False),
    Column("user_id", IdText),
    Column("session_type", IdText, nullable=False),
    Column("parent_id", IdText),
    # The users that it was shared with, as JSON.
    Column("shared_with", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)
Index(None, gone_sessions.c.change_number)

# Small values that the gateway keeps beside the sessions, of each kind by a key.
kept_values = Table(
    "kept_values",
    metadata,
    Column("kind", IdText, nullable=False),
    Column("key", IdText, nullable=False),
    Column("value", LargeBinary, nullable=False),
    PrimaryKeyConstraint("kind", "key"),
    sqlite_with_rowid=False,
)

# Single values, by name: `last_epoch`, the greatest epoch that a session was created with;
# `last_change`, `forgotten_changes` and `change_feed` (see `change_feed`). PostgreSQL has more:
# `leader` and `alone` (see `registration`), `history` and `deployment` (see `history`),
# `ticket_secret` and `keys_version`.
meta = Table(
    "meta",
    metadata,
    Column("name", IdText, primary_key=True),
    Column("number", BigInteger),
    Column("text", Text),
    sqlite_with_rowid=False,
)
