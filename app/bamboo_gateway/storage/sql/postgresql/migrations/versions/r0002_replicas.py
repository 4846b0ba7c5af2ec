"""Several processes share the database: who they are, what they do, what deletions leave."""

from alembic import op

revision = "0002"
down_revision = "0001"

_STATEMENTS = (
    """\
CREATE TABLE executors (
  executor TEXT COLLATE "C" NOT NULL,
  counter BIGINT NOT NULL,
  slot SMALLINT NOT NULL,
  name TEXT NOT NULL,
  started_at BIGINT NOT NULL,
  touched_at BIGINT NOT NULL,
  CONSTRAINT pk_executors PRIMARY KEY (executor),
  CONSTRAINT uq_executors_slot UNIQUE (slot)
)""",
    """\
CREATE TABLE session_epochs (
  id TEXT COLLATE "C" NOT NULL,
  epoch BIGINT NOT NULL,
  at BIGINT,
  CONSTRAINT pk_session_epochs PRIMARY KEY (id)
)""",
    "CREATE INDEX ix_session_epochs_at ON session_epochs (at) WHERE at IS NOT NULL",
    """\
CREATE TABLE gone_keys (
  session_id TEXT COLLATE "C" NOT NULL,
  digest BYTEA NOT NULL,
  expires_at BIGINT NOT NULL,
  CONSTRAINT pk_gone_keys PRIMARY KEY (session_id, digest)
)""",
    "CREATE INDEX ix_gone_keys_expires_at ON gone_keys (expires_at)",
    """\
CREATE TABLE presence (
  session_id TEXT COLLATE "C" NOT NULL,
  kind TEXT COLLATE "C" NOT NULL,
  name TEXT COLLATE "C" NOT NULL,
  executor TEXT COLLATE "C" NOT NULL,
  body BYTEA NOT NULL,
  wish TEXT,
  touched_at BIGINT NOT NULL,
  CONSTRAINT pk_presence PRIMARY KEY (session_id, kind, name, executor)
)""",
    "CREATE INDEX ix_presence_executor ON presence (executor) WHERE wish IS NOT NULL",
    """\
CREATE TABLE api_keys (
  id TEXT COLLATE "C" NOT NULL,
  digest BYTEA NOT NULL,
  user_id TEXT,
  rights TEXT NOT NULL,
  name TEXT NOT NULL,
  created_at BIGINT NOT NULL,
  expires_at BIGINT,
  revoked_at BIGINT,
  CONSTRAINT pk_api_keys PRIMARY KEY (id)
)""",
    "INSERT INTO meta (name, number) VALUES ('keys_version', 0)",
    # A database had one owner until now.
    "DELETE FROM meta WHERE name = 'owner'",
    'ALTER TABLE leftovers ADD COLUMN executor TEXT COLLATE "C"',
    'ALTER TABLE sessions ADD COLUMN executor TEXT COLLATE "C", ADD COLUMN run_id TEXT',
    # A run that was left open is one whose process is gone: it is found by an id that none has. The
    # escape of NUL becomes another one, since PostgreSQL can take no value from a text that has it.
    """\
UPDATE sessions s SET run_id = j.active ->> 'run_id',
  executor = CASE WHEN j.active ->> 'agent' <> 'external' THEN 'nobody' END
FROM (
  SELECT key, replace(convert_from(head, 'UTF8'), '\\u0000', '\\u0001')::json -> 'active' AS active
  FROM sessions WHERE has_active
) AS j
WHERE j.key = s.key""",
    "CREATE INDEX ix_sessions_executor ON sessions (executor) WHERE executor IS NOT NULL",
    "CREATE INDEX ix_sessions_queues ON sessions (id) WHERE has_queue AND NOT has_active",
    "CREATE INDEX ix_sessions_external_runs ON sessions (activity_slot)"
    " WHERE has_active AND executor IS NULL",
    # Without statistics a new column counts as full, and each scan would read all sessions, until
    # a tenth of them has changed.
    "ANALYZE sessions (executor)",
)
_UNDONE = (
    # An earlier version does not know these members, and reads no head that has them. Each is cut
    # out of the text, which PostgreSQL returns as it is stored.
    """\
UPDATE sessions s SET head = convert_to(
  replace(replace(j.head, coalesce(',"executor":' || (j.active -> 'executor')::text, ''), ''),
    coalesce(',"wish":' || (j.active -> 'wish')::text, ''), ''), 'UTF8')
FROM (
  SELECT key, convert_from(head, 'UTF8') AS head,
    replace(convert_from(head, 'UTF8'), '\\u0000', '\\u0001')::json -> 'active' AS active
  FROM sessions WHERE has_active
) AS j
WHERE j.key = s.key AND (j.active -> 'executor' IS NOT NULL OR j.active -> 'wish' IS NOT NULL)""",
    # The indexes go with their columns; this one has none of them.
    "DROP INDEX ix_sessions_queues",
    "ALTER TABLE sessions DROP COLUMN executor, DROP COLUMN run_id",
    "ALTER TABLE leftovers DROP COLUMN executor",
    "DELETE FROM meta WHERE name IN ('keys_version', 'leader', 'alone')",
    "DROP TABLE api_keys",
    "DROP TABLE presence",
    "DROP TABLE gone_keys",
    "DROP TABLE session_epochs",
    "DROP TABLE executors",
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    for statement in _UNDONE:
        op.execute(statement)
