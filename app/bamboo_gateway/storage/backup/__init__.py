"""Backups: a directory with copies of a store's files, and a manifest that names every byte.

`manifest` describes the files, `target` writes a new backup, `source` reads and verifies one, and
`unfinished` marks a directory while a backup is restored into it. What the files contain is the
business of each store (`jsonl/backup`, `sql/sqlite/backup`).
"""
