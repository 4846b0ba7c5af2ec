"""What tests of the server around the app share."""

from tests.api.conftest import _nothing_blocks_the_loop

__all__ = ["_nothing_blocks_the_loop"]
