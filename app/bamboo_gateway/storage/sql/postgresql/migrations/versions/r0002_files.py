"""The contents of files."""

from alembic import op

revision = "0002"
down_revision = "0001"

_TABLES = ("file_contents", "file_pieces")
_STATEMENTS = (
    """\
CREATE TABLE file_contents (
  owner TEXT COLLATE "C" NOT NULL,
  digest TEXT COLLATE "C" NOT NULL,
  upload TEXT COLLATE "C" NOT NULL,
  size BIGINT NOT NULL,
  CONSTRAINT pk_file_contents PRIMARY KEY (owner, digest)
)""",
    "CREATE UNIQUE INDEX ix_file_contents_upload ON file_contents (upload)",
    """\
CREATE TABLE file_pieces (
  upload TEXT COLLATE "C" NOT NULL,
  number INTEGER NOT NULL,
  body BYTEA NOT NULL,
  CONSTRAINT pk_file_pieces PRIMARY KEY (upload, number)
)""",
    # Most pictures are compressed already: to try it again would cost more than it saves.
    "ALTER TABLE file_pieces ALTER COLUMN body SET STORAGE EXTERNAL",
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    for table in _TABLES:
        op.execute(f"DROP TABLE {table}")
