"""The limits of TCP connections, in all and per address."""

import resource
from collections import Counter
from typing import Final, Literal

from bamboo_gateway.domain.networks import network_of
from bamboo_gateway.settings import Settings

_FILES_MAX: Final = 1 << 20

_DETAILS: Final = {
    "too_many": "Limit reached: {most} TCP connections (max_tcp_connections, or the limit of open "
    "files). Retry later.",
    "too_many_of_address": "Limit reached: {most} TCP connections from this address "
    "(max_tcp_connections_per_address). Close a connection and retry.",
}

Reason = Literal["too_many", "too_many_of_address"]


class ConnectionLimits:
    """Count open connections, and refuse those over a limit. Use it on the event loop only."""

    def __init__(self, settings: Settings) -> None:
        self._most = settings.max_tcp_connections
        self._most_of_one = settings.max_tcp_connections_per_address
        self._open = 0
        self._by_address: Counter[str] = Counter()

    def enter(self, host: str) -> Reason | None:
        """Admit a connection, or return why it is refused.

        Every admitted connection has to `leave`.
        """
        address = network_of(host)
        if self._open >= min(self._most, _files_for_connections()):
            return "too_many"
        if self._most_of_one is not None and self._by_address[address] >= self._most_of_one:
            return "too_many_of_address"
        self._open += 1
        self._by_address[address] += 1
        return None

    def leave(self, host: str) -> None:
        """Remove an admitted connection from the count."""
        address = network_of(host)
        self._open -= 1
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]

    def detail(self, reason: Reason) -> str:
        """Return the detail of a refusal: the limit, its setting and what the client can do."""
        if reason == "too_many":
            most: int | None = min(self._most, _files_for_connections())
        else:
            most = self._most_of_one
        return _DETAILS[reason].format(most=most)


def _files_for_connections() -> int:
    """Return how many connections the limit of open files leaves room for.

    A quarter of the files is for logs, and 64 more for everything else: without them the kernel
    would refuse to open files, and acknowledged writes would fail.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _FILES_MAX if soft == resource.RLIM_INFINITY else max(1, soft - soft // 4 - 64)
