"""A model of the protocol by which replicas share one database, explored exhaustively.

Several gateways share one database. This package describes how, and `tests/cluster/test_model.py`
searches every state of it within bounds: two replicas, one session, a database that loses answers.
It was the plan to build from, so this page is complete for what is modelled: rows, statements,
timers, steps. The last sections say what the search found, in which order it was built, and what is
left out. `tests/cluster/test_torture.py` tries the same with real gateways.

Modules: `state` (what there is), `rules` (each rule of the protocol, with the test that removes it;
the bounds of a search), `decisions` (pure), `database` (fences), `replicas`, `heartbeats`, `faults`
(the steps), `invariants`, `search`.

# Words

*Executor*: one process of a replica, by an id that no other process ever has (a random one; never
a host or pod name). *Counter*: the heartbeat, a number in the executor's row. *Version*: a number
in the session's row that each commit moves, also one of notes alone. *Commit id*: a random number
stored with each event and note of a commit. *Wish*: that a run should end (cancel, interrupt).
*Tombstone*: what a deletion leaves. *Incarnation*: a session from its creation to its deletion; it
is named by its epoch.

# Rows

* `executors (executor PRIMARY KEY, counter, name, started_at)`. A process inserts its row before it
  serves, and deletes it as its last act. `name` is for people. A row whose counter has not moved
  for an hour, and that no session names, may be deleted by anybody. A process whose renewal finds
  no row ends its runs' agents, and takes a new id.
* `sessions`, more columns: `run_id`, `executor` (null: external, or no run), `wish` (null, or how
  the run is to end), `has_queue`. They are columns and no table of their own, because each append
  locks this row anyhow. Partial indexes: on `executor` where it is not null; on `has_queue` where
  `run_id` is null and it is true. Neither changes with a token, so updates stay in their page.
* `session_epochs (id PRIMARY KEY, epoch)`: the greatest epoch that a creation of this id used. It
  is the model's tombstone: a deletion leaves it. Without a session it goes after an hour, which is
  longer than any statement can be on its way.
* `gone_keys (session_id, digest, expires_at)`: the digests of the deleted session's idempotency
  keys, without their answers, for the rest of their 24 hours. The deletion writes them.
* `events.commit_id`, `notes.commit_id`: as today. Every commit has an event or a note, or it could
  not be looked up; so a wish is stored as a note too.

No `attempt` is needed: a run is executed once, so `(run_id, executor)` says all.

# Statements

Each is one statement, and one transaction. All but the last lock nothing beyond their own time.

*Append* (`Commit.kind == "append"`): lock the row where `id`, `epoch` and `version` are as expected
and it is not packed; insert events and notes with the commit id; set `version + 1`, `seq`, `head`,
and the columns above. Return the numbers of what was applied, each with its `wish`.

*Create*: insert into `session_epochs`, or raise the epoch there where it is smaller than the
commit's; and only if that changed a row, insert the session unless there is one. The epoch is
max(the database's ms, last + 1), drawn by a statement of its own. Two replicas may draw the same;
then one of them is refused.

*Start* (an append or a creation that names its process as `executor`): in the same statement move
the counter of that executor; when it has no row, nothing applies. The process then begins anew.

*Delete*: delete the row where `id` and `epoch` are as expected, and write the keys.

*Renew*: `UPDATE executors SET counter = counter + 1 WHERE executor = mine RETURNING counter`, and
in the same statement read the counters of all others. No row: see above.

*Own runs*: the sessions where `executor` is mine. *Dead runs*: the sessions whose `executor` is one
that I take for dead, or has no row. *Queues*: sessions with `has_queue` and no run. All three in
one statement with a limit, after each renewal.

*Close* (`purpose == "close"`): an append, with one more condition when the executor is another's:
`NOT EXISTS (SELECT FROM executors WHERE executor = X AND counter <> seen)`. It leaves out sessions
that are locked (`SKIP LOCKED`); the next renewal's scan finds them again.

*A statement is no step of the model by itself* (`tests/cluster/test_statements.py` tries each of
these on a server). When a statement waits for a lock, PostgreSQL looks at the locked row again, and
at nothing else: subqueries keep the snapshot of the statement's begin. So
  - a tombstone that a creation asks by `NOT EXISTS` does not stop one that waits for the deletion;
    the condition on the row of `session_epochs` does;
  - a close that waits for the session's row does not see a renewal meanwhile; so it never waits;
  - a start that only locks the executor's row does not stop who removes that row by `NOT EXISTS
    (session of that executor)`; so it moves the counter, which the removal has as a condition.

*Locked append*: `BEGIN; SET LOCAL lock_timeout = 100 ms, idle_in_transaction_session_timeout =
300 ms; SELECT ... FOR UPDATE`; read what the fold lacks, decide, append, `COMMIT`.

# Steps of a replica

*Request* (`replicas._request_decided`): read the head; the key's answer, if the log or the
tombstone has it; else decide, and send. Then
  - stored: answer. When it starts a run that this replica executes, start its agent, not before.
  - conflict: fold the new events, and begin again, with the key. After two conflicts in a row of
    one incarnation: the locked append. A creation that is refused does not count; there is no row
    that could be locked.
  - no answer (the connection broke): send the same commit again, with the same id. When it is
    refused now, look for its id. Found: stored. Another commit's row stands at its first seq: not
    stored, decide again. Neither (the session is deleted, of another epoch, or packed): nobody can
    know. Answer 503 and `storage_failed`, never decide again: a client with a key asks again.
  - no answer for as long as requests wait: 503; the commit may still be applied.

*Execution* (`decisions.on_execution`): an agent's event is decided on the head in memory. On a
conflict the fold comes first. When the run is not active any more, or has another executor, or the
session another epoch: stop the agent, say nothing, count no failure. When there is a wish, end the
run as it says. Else decide the same event again. An event is never dropped, and never only
renumbered. The agent's end waits until it is stored, however long the database is away.

*Cancel, interrupt*: store the wish, in the commit that decides it (an interrupt queues its run in
the same one). The executor learns of it with its next append, which the moved version refuses; the
bus only makes it faster. So no token stands behind a wish. A queued run is ended at once. When the
executor is dead, the close ends the run.

*Queue* (`decisions.on_queue`): any replica that is not draining and has the agent starts the first
queued run of a session without an active one: an append that names itself the executor. The fence
decides between two. Effects as for a request.

*Tidy* (`decisions.on_open_run`): a run that is mine by the rows, that I do not execute, and whose
start is not on its way, is closed as interrupted. It goes through the session's writer, behind what
that has on its way; never straight from the heartbeat's thread.

*Takeover* (`heartbeats._takeover`): a run of a dead executor is closed: what was said becomes an
incomplete message, then `error` `interrupted`. It is not executed again. The session's queue goes
on.

*Heartbeat* (`heartbeats._renewed`): a thread and a connection of its own. For each other executor
remember its counter, and for how many of my own renewals in a row it stood still. A failed renewal
sets all these back to zero. Dead: four in a row. The thread stops when the event loop has not
turned for 30 s; the process ends itself then.

*SIGTERM*: ready is 503; start no runs and no queued ones; take nobody over; renew on. Streams that
others can serve get `goodbye` at once. The own runs end by themselves, or at the end of the drain
as `interrupted`, committed by their executor. Then, when no statement is on its way, delete the
executor's row, and exit. The queues are left for the others. When the time is over and something is
still open, exit and leave the row: the others see it die.

*SIGCONT after a long stop* needs no step of its own: appends are refused, so the agents stop; what
was counted about others is refused by the condition of the close.

# Timers

| what | value | why |
|---|---|---|
| renewal | 2.5 s apart, never made up for | a burst of late ones would count silence of no time |
| a failed renewal | again after 0.5 s | or one short outage costs a healthy replica a whole round |
| connect and statement timeout of that connection | 1.5 s | an attempt ends within the round |
| dead | 4 rounds: 10 to 12.5 s | see the next section; takeover within 15 s |
| loop watch | 30 s | |
| lock, and idle in its transaction | 100 ms, 300 ms | who stops with the lock keeps nobody out |

# What the search found in the design

The traces are those of the tests of the same names (`-s` shows them).

1. *A creation can come back from the dead* (`tombstone`). The answer of a creation is lost; the
   session is seen and deleted by others; the statement, sent again or still on its way, creates it
   once more, with the same epoch: positions stand twice, and what was deleted is there again.
   Repair: `session_epochs`.
2. *A key dies with its session* (`gone_keys`). A chat with a key is stored, its answer is lost, the
   session is deleted, the retry creates it again and runs the agent twice. Repair: the deletion
   keeps the digests.
3. *A lookup that finds nothing proves nothing* (`unknown_stays`, `packed_is_unknown`). When the
   session was deleted or archived since, a stored commit looks like a refused one. Deciding again
   does the thing twice, or refuses what is stored. Repair: only another commit in its place is a
   proof; else the outcome stays unknown, and is said so.
4. *Silence must outlast outages* (`quick_retry`, and
   `test_silence_takes_two_rounds_more_than_there_are_outages_in_a_row`). An outage shorter than a
   round can hit only the renewals of one replica, and the observer never knows. Rounds needed: two,
   and one for each such outage in a row; another one when failures are not retried within the
   round. Ten seconds at a renewal every three are three rounds: one outage. Repair: four rounds,
   retries after 0.5 s.
5. *Renewals made up for are no time* (`paced`). After a SIGCONT, a timer that fires for each missed
   period counts the silence of ten seconds in one. Repair: wait the full period after each.
6. *The counter of the close is the one that was judged* (`judged_counter`), and not read again when
   the close is decided: else a renewal between the two is overlooked. And an executor whose row is
   gone must not go on under its id (`new_row`): every run that it starts is closed at once.
7. *The lock of the third try must end by itself* (`lock_timeout`): a killed or stopped owner would
   keep the session for ever. And there is nothing to lock for a creation.
8. *The row of an executor outlives its runs* (`rows_last`): who removes it at SIGTERM is taken for
   dead while its runs still speak.
9. *Tidying must not look past what is on its way* (`tidy_waits`), or it closes a run that is about
   to start.

# In which order to build, and what is tested after each

1. Commit ids for all commits, wishes as notes, the three outcomes of a lookup; tombstones with
   epochs and keys. One process still owns the database. Test: cut the connection before and behind
   each COMMIT (`tests/support/postgres_proxy.py`), with a second connection that deletes, archives
   and creates in between; traces 1 to 3.
2. `Conflict` in the session's writer: fold what is new, decide again, also the events of a run and
   what was pipelined; then the locked append. Test: two writers on one store, in one process; a
   Hypothesis machine over real SQL against `invariants`; a writer beside 100 events/s.
3. Memory as a cache: heads confirmed before a read, a refusal or a reset. Still one owner. Test:
   the suite, with a store that changes heads between any two calls.
4. `executors`, renewals, the three scans, `executor` and `wish` columns; the close of a dead one's
   run instead of the recovery at a start; tidy. Ownership of the database goes. Test: two real
   processes; `kill -9`, SIGSTOP and SIGCONT at each step of `replicas`; an outage of 2 and of 60 s
   closes nothing; the agent counts its starts outside.
5. Streams of other replicas' events by polling; SIGTERM. Test: rolling restarts under load.
6. The bus. Test: the same, with the bus restarted, flushed, slow.
7. What is process memory today and no part of this model: external runs and their deadlines, who
   streams under a key, presence, quotas, rate limits.

# What the model leaves out

Pipelined commits of one writer and their joining in batches; merges and forks, which are creations;
external runs; reads and streams; compaction (it removes deltas of ended runs, whose commits nobody
looks up any more); lost commits at a failover, which give new epochs. Requests with a key are sent
twice at most. Time is rounds, so the model says nothing about milliseconds.
"""
