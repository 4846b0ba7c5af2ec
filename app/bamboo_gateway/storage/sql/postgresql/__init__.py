"""Sessions in PostgreSQL 14 or newer, also behind PgBouncer in transaction mode.

* `database` is what `SqlStore` sees.
* `target` knows where the database is; `connections` has the pool, and whether it answers.
* `statements` and `group_commit` make commits durable; `arrays` encodes their rows.
* `heartbeat` says to other processes that this one lives, and judges them (`judgement`);
  `registration` has the rows for it, `admission` who may begin, `processes` who a process is.
* `replicas` is what the gateway does with them: `due_work`, `presences`.
* `schema` and `migrations` see to it that the tables fit.
"""
