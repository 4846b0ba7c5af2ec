"""Lifecycle: archive, fork, merge, export, import, summaries, retention and compaction."""
