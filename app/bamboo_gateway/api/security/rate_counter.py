"""RateCounter: counts requests, together with the other gateways where they share their counts."""

from collections.abc import Sequence
from typing import NamedTuple

from limits import RateLimitItem

from bamboo_gateway.api.security.sliding_window import Reading, SlidingWindowCounter
from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.domain.rates import Counted, Rate, SharedCounts


class KeyRate(NamedTuple):
    """One rate of one key."""

    item: RateLimitItem
    key: str


class Outcome(NamedTuple):
    """The outcome of counting one request.

    Attributes:
        exceeded: The number of the rate that was used up, from 0; None: the request was counted.
        readings: The counts of each rate afterwards.
    """

    exceeded: int | None
    readings: list[Reading]


class RateCounter:
    """Count requests against several rates at once, or against none when one is used up.

    The process counts in any case. So it knows its own part when the shared counts do not answer.

    Args:
        clock: Divides the windows of the process.
        keys_max: How many keys the process keeps.
        shared: The counts of all gateways; None: this one is alone.
    """

    def __init__(self, clock: Clock, keys_max: int, shared: SharedCounts | None = None) -> None:
        self._own = SlidingWindowCounter(clock, keys_max)
        self._shared = shared

    @property
    def is_empty(self) -> bool:
        """Whether this process has counted nothing."""
        return not len(self._own)

    async def count(self, rates: Sequence[KeyRate]) -> Outcome:
        """Count one request."""
        own = self._count_alone(rates)
        if self._shared is not None:
            named = [Rate(item.key_for(key), item.amount, item.get_expiry()) for item, key in rates]
            counted = await self._shared.count(named)
            if counted is not None:
                return _outcome(rates, counted)
        return own

    def test(self, rates: Sequence[KeyRate]) -> int | None:
        """Return the number of a rate that this process alone has used up, or None."""
        for number, (item, key) in enumerate(rates):
            if not self._own.test(item, key):
                return number
        return None

    def read(self, rate: KeyRate) -> Reading:
        """Return what this process alone has counted."""
        return self._own.read(*rate)

    def forget(self, rates: Sequence[KeyRate]) -> None:
        """Forget these keys, here and, if it answers, where the gateways count together."""
        for item, key in rates:
            self._own.forget(item, key)
        if self._shared is not None:
            self._shared.forget([item.key_for(key) for item, key in rates])

    def _count_alone(self, rates: Sequence[KeyRate]) -> Outcome:
        exceeded = self.test(rates)
        if exceeded is None:
            for item, key in rates:
                self._own.hit(item, key)
        return Outcome(exceeded, [self._own.read(item, key) for item, key in rates])


def _outcome(rates: Sequence[KeyRate], counted: Counted) -> Outcome:
    readings = [
        Reading(0, previous, current, left, previous * left / item.get_expiry() + current)
        for (item, _), (previous, current, left) in zip(rates, counted.windows, strict=True)
    ]
    return Outcome(counted.exceeded, readings)
