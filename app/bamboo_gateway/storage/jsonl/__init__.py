"""The JSONL store, `jsonl:`, keeps sessions in plain files: the embedded default.

Start reading at `store`. A commit goes from `store` to `journal.committer`, which writes and syncs
it in the journal (`journal.segments`) and acknowledges it. `log.write_behind` then writes its lines
to the session's log file, the one people read. The next `journal.checkpoint` syncs the logs, adds
the marks to the mark files (`mark_files`) and the heads to the catalog (`index.catalog_file`), and
drops the segments. After a crash `journal.recovery` does the same from the journal. `reads` serves
all reads. `swaps` replaces a session's files as a whole. `repair` handles logs that the disk has
damaged. `search_index` keeps the messages of all sessions in a database beside the journal, and
`searches` answers from it.

Disk use. A snapshot holds the head and the message lines of its log, so it takes no more than log
and head. Marks take 32 bytes for each message, run event or note. The catalog takes at most twice
its current content plus 1 MiB. The journal takes one to three segments of 17 MiB, after a heavy
load up to four more that wait to be used again, and at most 67 while checkpoints fail; then the
store refuses commits. In all, the directory takes at most twice the size of logs and archive, plus
the heads and a constant. While a session is archived, restored, compacted or bulk-extended, its
files exist twice. Beside all that the search index takes about three times the text of the
messages.
"""
