"""Sliding window counters in bounded memory: where the library `limits` keeps what it counts.

Its own memory storage would start a thread for every ten milliseconds with traffic, read the wall
clock, and keep every key it has seen. This one is used on the event loop alone, so it needs no lock
and no thread; its clock never steps; and beyond `keys_max` the keys that were used longest ago are
forgotten.
"""

from collections import OrderedDict
from typing import NamedTuple

from limits.storage import SlidingWindowCounterSupport, Storage
from typing_extensions import override

from bamboo_gateway.domain.clock import Clock


class _Counts(NamedTuple):
    """What is kept of one key: the number of its window, and the counts of that and the one before.

    However high the limit, this is all: no request has an entry of its own.
    """

    window: int
    previous: int
    current: int


class Windows(Storage, SlidingWindowCounterSupport):
    """See the module.

    Args:
        clock: Its monotonic time is what windows are cut from.
        keys_max: How many keys are remembered.
    """

    def __init__(self, clock: Clock, keys_max: int) -> None:
        super().__init__()
        self._clock = clock
        self._keys_max = keys_max
        self._counts: OrderedDict[str, _Counts] = OrderedDict()

    def __len__(self) -> int:
        return len(self._counts)

    @override
    def acquire_sliding_window_entry(
        self, key: str, limit: int, expiry: int, amount: int = 1
    ) -> bool:
        previous, ttl, current, _ = self.get_sliding_window(key, expiry)
        is_free = int(previous * ttl / expiry + current) + amount <= limit
        if is_free:
            current += amount
        self._counts[key] = _Counts(self._window(expiry), previous, current)
        # Also of one that is refused: whoever goes on trying is not forgotten for others.
        self._counts.move_to_end(key)
        if len(self._counts) > self._keys_max:
            self._counts.popitem(last=False)
        return is_free

    @override
    def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        window = self._window(expiry)
        left = expiry - self._clock.monotonic() % expiry
        counts = self._counts.get(key)
        if counts is None or counts.window < window - 1:
            return 0, left, 0, left + expiry
        if counts.window < window:
            return counts.current, left, 0, left + expiry
        return counts.previous, left, counts.current, left + expiry

    def free_in(self, key: str, limit: int, expiry: int) -> float:
        """Gives the seconds after which one more fits; 0 when it does now."""
        previous, left, current, _ = self.get_sliding_window(key, expiry)
        if previous * left / expiry + current < limit:
            return 0
        # What the window before counts for shrinks evenly until the present one ends.
        return left - (limit - current) * expiry / previous if current < limit else left

    def _window(self, expiry: int) -> int:
        return int(self._clock.monotonic() // expiry)

    @override
    def clear_sliding_window(self, key: str, expiry: int) -> None:
        self.clear(key)

    @override
    def clear(self, key: str) -> None:
        self._counts.pop(key, None)

    @override
    def reset(self) -> int:
        count = len(self._counts)
        self._counts.clear()
        return count

    @override
    def check(self) -> bool:
        return True

    @property
    @override
    def base_exceptions(self) -> tuple[type[Exception], ...]:
        return ()

    # Of other strategies.

    @override
    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        raise NotImplementedError

    @override
    def get(self, key: str) -> int:
        raise NotImplementedError

    @override
    def get_expiry(self, key: str) -> float:
        raise NotImplementedError
