"""A session's log file: its lines, its marks, and the lines that are still to be written."""
