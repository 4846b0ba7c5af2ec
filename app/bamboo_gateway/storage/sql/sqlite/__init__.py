"""SQLite, through apsw, which brings a SQLite of its own: one file, owned by one process."""
