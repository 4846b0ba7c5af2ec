"""A sliding window counter in bounded memory, for the rates of the library `limits`.

`limits` parses the rates. Its own in-memory storage (5.8) does not count here, for three reasons:

* It starts a thread for every ten milliseconds with traffic. This counter runs on the event loop
  alone, so that it needs no thread and no lock.
* It reads the wall clock, which somebody may set. This counter reads the monotonic clock.
* It keeps every key until two windows have passed, however many keys a stranger makes up. This
  counter keeps `keys_max` keys, and forgets the ones that were used longest ago.

`hit` and `test` are those of `limits.strategies.RateLimiter` with one identifier, so that a limiter
of that library with a shared storage can take this counter's place.
"""

from collections import OrderedDict
from math import ceil, floor
from typing import NamedTuple

from limits import RateLimitItem

from bamboo_gateway.domain.clock import Clock


class _Counts(NamedTuple):
    """The number of a key's current window, and the requests in that window and the one before.

    The size does not depend on the limit: no request has an entry of its own.
    """

    window: int
    previous: int
    current: int


class SlidingWindowCounter:
    """Count requests per rate and key.

    Requests of the previous window count in proportion to the part of it that the sliding window
    still covers. Use it on the event loop only.

    Args:
        clock: Its monotonic time divides the windows.
        keys_max: How many keys are kept.
    """

    def __init__(self, clock: Clock, keys_max: int) -> None:
        self._clock = clock
        self._keys_max = keys_max
        self._counts: OrderedDict[str, _Counts] = OrderedDict()

    def __len__(self) -> int:
        return len(self._counts)

    def hit(self, item: RateLimitItem, key: str) -> bool:
        """Count one request unless the rate is used up.

        Returns:
            Whether the request was counted.
        """
        name = item.key_for(key)
        now = self._read(item, name)
        is_counted = now.used < item.amount
        self._counts[name] = _Counts(now.window, now.previous, now.current + is_counted)
        # A refused request counts as use, so that a caller who goes on trying is not forgotten.
        self._counts.move_to_end(name)
        if len(self._counts) > self._keys_max:
            self._counts.popitem(last=False)
        return is_counted

    def test(self, item: RateLimitItem, key: str) -> bool:
        """Return whether the rate leaves room for one more request, without counting it."""
        return self._read(item, item.key_for(key)).used < item.amount

    def forget(self, item: RateLimitItem, key: str) -> None:
        """Forget a key."""
        self._counts.pop(item.key_for(key), None)

    def read(self, item: RateLimitItem, key: str) -> "Reading":
        """Return the counts of a key at this moment."""
        return self._read(item, item.key_for(key))

    def _read(self, item: RateLimitItem, name: str) -> "Reading":
        moment = self._clock.monotonic()
        window = int(moment // item.get_expiry())
        left = item.get_expiry() - moment % item.get_expiry()
        counts = self._counts.get(name)
        if counts is None or counts.window < window - 1:
            return Reading(window, 0, 0, left, 0.0)
        if counts.window < window:
            previous, current = counts.current, 0
        else:
            previous, current = counts.previous, counts.current
        used = previous * left / item.get_expiry() + current
        return Reading(window, previous, current, left, used)


class Reading(NamedTuple):
    """The counts of one key at one moment.

    Attributes:
        window: The number of the current window.
        previous: Requests in the window before.
        current: Requests in the current window.
        left: Seconds until the current window ends.
        used: Requests in the sliding window, those of the window before in proportion.
    """

    window: int
    previous: int
    current: int
    left: float
    used: float

    def remaining(self, item: RateLimitItem) -> int:
        """Return how many more requests the rate allows now."""
        return max(0, item.amount - floor(self.used))

    def resets_in(self) -> int:
        """Return the seconds until the current window ends, rounded up."""
        return ceil(self.left)

    def retry_after(self, item: RateLimitItem) -> int:
        """Return the whole seconds after which the rate leaves room for one more request."""
        if self.used < item.amount:
            free_in = 0.0
        elif self.current < item.amount:
            # The weight of the previous window shrinks evenly until the current one ends.
            free_in = self.left - (item.amount - self.current) * item.get_expiry() / self.previous
        else:
            free_in = self.left
        return floor(free_in) + 1
