"""Fixtures of the tests of wires: those of the HTTP tests."""

from tests.api.conftest import api, free_id, served, session_id
from tests.support.blocking import nothing_blocks_the_loop

__all__ = ["api", "free_id", "nothing_blocks_the_loop", "served", "session_id"]
