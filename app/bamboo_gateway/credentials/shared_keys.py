"""Keys that the store keeps for all gateways that use it, in place of a keys file.

A gateway looks each second whether they have changed. The keys of a keys file are taken over once,
by the first gateway or command that finds a store that never had a key; from then on nobody reads
the file.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

import structlog

from bamboo_gateway.credentials.errors import CredentialsUnusable
from bamboo_gateway.credentials.keyfile import KeyFile, check_owner
from bamboo_gateway.credentials.keys import KeyTable
from bamboo_gateway.domain.api_keys import ApiKey
from bamboo_gateway.domain.errors import BambooError

log = structlog.get_logger(__name__)

_KEYS_TOLD_MAX: Final = 20
"""The most keys that one log line names."""


class SharedKeys(Protocol):
    """The keys in a store (`storage.keys.ApiKeys`). All of it blocks."""

    place: str

    def version(self) -> int:
        """Return a number that every change raises; 0: there never was a key."""

    def read(self) -> tuple[ApiKey, ...]:
        """Return all keys."""

    def change(self, change: Callable[[Sequence[ApiKey]], Sequence[ApiKey]]) -> None:
        """Replace the keys by the result of `change`, durably."""

    def take_over(self, keys: Sequence[ApiKey]) -> bool:
        """Keep these keys if there never was one; return whether that was so."""


class WatchedKeys:
    """The keys of a store, as they were at the last look.

    Args:
        shared: The keys.
        file: The keys file that is taken over; it may not exist.

    Attributes:
        value: The keys; none before `load`.
        is_loaded: Whether they are known.
    """

    def __init__(self, shared: SharedKeys, file: Path) -> None:
        self.shared = shared
        self.file = file
        self.value = KeyTable(())
        self.is_loaded = False
        self._version = 0
        self._is_late = False

    @property
    def exists(self) -> bool:
        """Whether there ever was a key."""
        return self._version > 0

    def load(self) -> None:
        """Read the keys; take those of the file over first, if there never was one. Blocks.

        Raises:
            CredentialsUnusable: The keys file cannot be used.
            BambooError: The store does not tell the keys now.
        """
        took = take_over(self.shared, self.file)
        self._read()
        self.is_loaded = True
        if not took:
            self._tell_of_others()

    def refresh(self) -> bool:
        """Read the keys again if they have changed; return whether they have. Blocks.

        While the store does not answer, the last ones stay in force.
        """
        try:
            changed = self._read()
        except BambooError as error:
            if not self._is_late:
                log.warning("credentials stay as they were", problem=error.detail)
            self._is_late = True
            return False
        self._is_late = False
        return changed

    def _read(self) -> bool:
        # Before the keys, so that a change in between is noticed the next time.
        version = self.shared.version()
        if version == self._version:
            return False
        self.value, self._version = KeyTable(self.shared.read()), version
        return True

    def _tell_of_others(self) -> None:
        """Log that the file has keys that the store does not have."""
        with suppress(CredentialsUnusable):
            known = {key.id for key in self.shared.read()}
            others = sorted(key.id for key in KeyFile(self.file).read() if key.id not in known)
            if others:
                log.warning(
                    "keys of the keys file are not valid: the keys are in the store",
                    file=str(self.file),
                    keys=others[:_KEYS_TOLD_MAX],
                )


def take_over(shared: SharedKeys, path: Path) -> bool:
    """Bring the keys of a keys file into a store that never had one. Blocks.

    Returns:
        Whether they were taken over.

    Raises:
        CredentialsUnusable: The keys file cannot be used.
        BambooError: The store cannot be read or changed.
    """
    if shared.version() or not path.exists():
        return False
    check_owner(path)
    keys = KeyFile(path).read()
    if not shared.take_over(keys):
        return False  # another process did, at the same moment
    log.info("the keys of the keys file are in the store now", file=str(path), keys=len(keys))
    return True
