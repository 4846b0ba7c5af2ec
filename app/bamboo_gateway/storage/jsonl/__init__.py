"""`jsonl:` keeps sessions in plain files: the embedded default. `store` is where to begin reading.

A commit travels `store` → `committer` → `journal` (synced) → acknowledged → `lagging` → `log` (the
file people read) and, at the next `checkpoint`, → logs synced, `marks` and `catalogfile` brought
up, segments dropped. `recovery` walks the same way after a crash; `repair` is what damage on disk
leads to.

Disk use: a snapshot holds the head and the message lines that its log holds, so it takes no more
than log and head; marks take 32 bytes a message, run event or note; the catalog at most twice what
counts in it and 1 MiB. The journal takes one to three segments of 17 MiB, after a heavy load up to
four more that wait to be used again, and at most 67 while checkpoints fail, after which commits are
refused. So all there is takes at most twice what is kept in logs and archive, besides the heads and
a constant. While a session is packed, unpacked or compacted, or gets many events at once, its files
are there twice.
"""
