"""Runs: from a chat to a turn of an agent, and to the end of it."""
