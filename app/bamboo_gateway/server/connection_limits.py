"""How many TCP connections there may be, in all and from one address."""

import resource
from collections import Counter
from typing import Final, Literal

from bamboo_gateway.domain.networks import network_of
from bamboo_gateway.settings import Settings

_FILES_MAX: Final = 1 << 20

_DETAILS: Final = {
    "too_many": "max_tcp_connections, or what the limit of open files leaves of it, is {most}, and "
    "that is reached; try again, or raise it.",
    "too_many_of_address": "max_tcp_connections_per_address is {most}, and that is reached; close "
    "some, or raise it.",
}

Reason = Literal["too_many", "too_many_of_address"]


class ConnectionLimits:
    """Counts the connections that were let in. Used on the event loop alone."""

    def __init__(self, settings: Settings) -> None:
        self._most = settings.max_tcp_connections
        self._most_of_one = settings.max_tcp_connections_per_address
        self._open = 0
        self._by_address: Counter[str] = Counter()

    def enter(self, host: str) -> Reason | None:
        """Lets a connection in, or says why not; one that is in has to `leave`."""
        address = network_of(host)
        if self._open >= min(self._most, _files_for_connections()):
            return "too_many"
        if self._most_of_one is not None and self._by_address[address] >= self._most_of_one:
            return "too_many_of_address"
        self._open += 1
        self._by_address[address] += 1
        return None

    def leave(self, host: str) -> None:
        """Counts out a connection that was let in."""
        address = network_of(host)
        self._open -= 1
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]

    def detail(self, reason: Reason) -> str:
        """Says which limit it was, and what to do."""
        if reason == "too_many":
            most: int | None = min(self._most, _files_for_connections())
        else:
            most = self._most_of_one
        return _DETAILS[reason].format(most=most)


def _files_for_connections() -> int:
    """Gives how many connections the limit of open files leaves room for.

    A quarter is for logs, the rest of what is kept back for everything else: beyond it the kernel
    would refuse files, and with them writes that were promised.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _FILES_MAX if soft == resource.RLIM_INFINITY else max(1, soft - soft // 4 - 64)
