"""Fixtures for degraded storage: disks and files that are full, slow, read-only or damaged."""

from tests.storage.conftest import clock, data_dir, opener

__all__ = ["clock", "data_dir", "opener"]
