"""Degraded storage: disks that are full, slow, read-only or bad, and files that are."""

from tests.storage.conftest import anyio_backend, clock, data_dir, opener

__all__ = ["anyio_backend", "clock", "data_dir", "opener"]
