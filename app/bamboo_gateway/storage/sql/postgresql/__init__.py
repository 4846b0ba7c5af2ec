"""Sessions in PostgreSQL 14 or newer, also behind PgBouncer in transaction mode.

* `database` is what `SqlStore` sees.
* `target` knows where the database is; `connections` has the pool, and whether it answers.
* `statements` and `group_commit` make commits durable; `arrays` encodes their rows.
* `ownership` sees to it that one process writes; `schema` and `migrations` that the tables fit.
"""
