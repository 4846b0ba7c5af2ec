"""The contract of stores that keep the API keys for all gateways that use them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from bamboo_gateway.domain.api_keys import ApiKey


class ApiKeys(ABC):
    """The keys in a store, by the methods of a keys file. All of it blocks.

    Attributes:
        place: What people call the place of the keys.
    """

    place: str

    @abstractmethod
    def version(self) -> int:
        """Return a number that every change raises; 0: there never was a key.

        Raises:
            Unavailable, StoreUnusable: The store does not tell it now.
        """

    @abstractmethod
    def read(self) -> tuple[ApiKey, ...]:
        """Return all keys, the oldest first.

        Raises:
            Unavailable, StoreUnusable: As `version`.
        """

    @abstractmethod
    def change(self, change: Callable[[Sequence[ApiKey]], Sequence[ApiKey]]) -> None:
        """Replace the keys by the result of `change`, durably; what it raises changes nothing.

        Raises:
            Unavailable, StorageFailed, StoreUnusable: They could not be changed, or nobody knows.
        """

    @abstractmethod
    def take_over(self, keys: Sequence[ApiKey]) -> bool:
        """Keep these keys if there never was one; return whether that was so.

        Raises:
            Unavailable, StorageFailed, StoreUnusable: As `change`.
        """


@runtime_checkable
class SupportsKeys(Protocol):
    """A store that keeps API keys."""

    @property
    def api_keys(self) -> ApiKeys:
        """The keys; usable while the store is open."""
