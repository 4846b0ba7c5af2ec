"""Rates that several gateways count together: how much is allowed in a sliding window."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import NamedTuple


class Rate(NamedTuple):
    """How often something may happen, and how that is called.

    Attributes:
        name: What is counted, and of whom.
        amount: How often it may happen in each window.
        seconds: The length of a window.
    """

    name: str
    amount: int
    seconds: int


class WindowCount(NamedTuple):
    """The counts of one rate at one moment, of all gateways together.

    Attributes:
        previous: Requests in the window before the current one.
        current: Requests in the current window.
        left: Seconds until the current window ends.
    """

    previous: int
    current: int
    left: float


class Counted(NamedTuple):
    """The outcome of counting one request.

    Attributes:
        exceeded: The number of the rate that was used up, from 0; None: the request was counted.
        windows: The counts of each rate afterwards.
    """

    exceeded: int | None
    windows: list[WindowCount]


class SharedCounts(ABC):
    """Counts of rates that all gateways of a deployment share."""

    @abstractmethod
    async def count(self, rates: Sequence[Rate]) -> Counted | None:
        """Count one request against every rate, or against none when one is used up.

        Requests of the previous window count in proportion to the part of it that a window which
        ends now covers.

        Returns:
            The outcome; None when the counts cannot be asked now, so that each gateway has to
            count alone. That is said after a moment, whatever has happened to the bus.
        """

    @abstractmethod
    def forget(self, names: Collection[str]) -> None:
        """Forget the counts of these rates, soon, if they can be asked now."""
