"""What tests of the server around the app share."""

from tests.support.blocking import nothing_blocks_the_loop

__all__ = ["nothing_blocks_the_loop"]
