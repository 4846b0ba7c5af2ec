"""Histograms of plain integers, for code that runs too often for a metrics library."""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from math import inf
from typing import Final

REQUEST_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60)
"""Durations of requests: from a cached read to the longest `Prefer: wait`."""

DISK_SECONDS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5)
"""Durations of syncs: from a battery-backed cache to a disk that is about to fail."""

RUN_SECONDS: Final = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600)
"""Durations of runs: from a scripted answer to an agent that works for an hour."""

COUNTS: Final = (1, 2, 4, 8, 16, 32, 64, 256, 1024, 4096, 16384)
"""Sizes of batches."""


class Histogram:
    """Counts observed values by bucket, and adds them up. One thread writes it.

    Args:
        bounds: The upper bounds of the buckets, rising. Values above all of them are counted too.
    """

    __slots__ = ("_bounds", "_counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """The number of observed values."""
        return sum(self._counts)

    def buckets(self) -> Iterator[tuple[float, int]]:
        """Return each upper bound, infinity last, with the number of values at or below it."""
        return zip((*self._bounds, inf), accumulate(self._counts), strict=True)
