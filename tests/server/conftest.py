"""Fixtures of the server tests."""

from tests.support.blocking import nothing_blocks_the_loop

__all__ = ["nothing_blocks_the_loop"]
