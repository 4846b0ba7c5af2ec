"""What Alembic runs for each command; `schema` gives it a connection, or wants text."""

from alembic import context
from sqlalchemy import text

# The lock is held until the transaction ends, so it works behind PgBouncer too, and of two
# processes that find an empty database one waits for the other. Any number will do.
_LOCK = "SELECT pg_advisory_xact_lock(4776309)"

connection = context.config.attributes.get("connection")
if connection is None:
    context.configure(dialect_name="postgresql", literal_binds=True, transactional_ddl=True)
else:
    context.configure(connection=connection, transactional_ddl=True)
with context.begin_transaction():
    if connection is not None:
        connection.execute(text(_LOCK))
    context.run_migrations()
