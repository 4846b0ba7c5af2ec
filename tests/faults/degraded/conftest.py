"""Degraded storage: disks that are full, slow, read-only or bad, and files that are."""

from tests.storage.conftest import clock, data_dir, opener

__all__ = ["clock", "data_dir", "opener"]
