"""Clocks that tests step."""

from typing_extensions import override

from bamboo_gateway.domain.clock import Clock

T0_MS = 1_763_661_234_567


class FakeClock(Clock):
    """Stands still until it is told otherwise; the two times move together unless said."""

    def __init__(self, now_ms: int = T0_MS) -> None:
        self.ms = now_ms
        self.seconds = 1000.0

    @override
    def now_ms(self) -> int:
        return self.ms

    @override
    def monotonic(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.ms += round(seconds * 1000)
        self.seconds += seconds

    def step_back(self, seconds: float) -> None:
        """Set the wall clock back, as NTP does; the other one only ever grows."""
        self.ms -= round(seconds * 1000)
