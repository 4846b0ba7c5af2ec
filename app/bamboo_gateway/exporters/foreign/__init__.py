"""Readers of the session formats of other programs, one file per format."""
