"""Histograms of plain integers, for places that are passed too often for a metrics library."""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from math import inf
from typing import Final

REQUEST_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60)
"""From a cached read to the longest wait that a request may ask for (`Prefer: wait`)."""

DISK_SECONDS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5)
"""From a battery-backed cache to a disk that is about to fail."""

RUN_SECONDS: Final = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600)
"""From a scripted answer to an agent that works for an hour."""

COUNTS: Final = (1, 2, 4, 8, 16, 32, 64, 256, 1024, 4096, 16384)
"""Things taken at once."""


class Histogram:
    """Counts of observed values by bucket, and their sum. Written by one thread.

    Args:
        bounds: The buckets' upper bounds, rising; what lies above all of them is counted too.
    """

    __slots__ = ("_bounds", "_counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Counts one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self._counts)

    def buckets(self) -> Iterator[tuple[float, int]]:
        """Gives each upper bound, infinity last, with how many values lay at or below it."""
        return zip((*self._bounds, inf), accumulate(self._counts), strict=True)
