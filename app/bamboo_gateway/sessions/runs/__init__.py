"""Runs: how they start, wait, execute and end."""
