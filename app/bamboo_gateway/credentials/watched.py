"""Files that may change while the gateway runs: read again when they did, off the event loop."""

from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, TypeVar

import structlog

from bamboo_gateway.credentials.errors import CredentialsUnusable

log = structlog.get_logger(__name__)

T = TypeVar("T")

_BYTES_MAX: Final = 16 * 1024 * 1024
"""Far above the most keys there may be; what is larger is some other file."""

_Stamp = tuple[int, int, int, int] | None


class WatchedFile(Generic[T]):
    """A file and what it means.

    Args:
        path: Where it is.
        parse: Makes a value of its content, or raises ValueError or CredentialsUnusable.
        missing: What is meant by no file; None: there has to be one.

    Attributes:
        value: What its last good content means.

    Raises:
        CredentialsUnusable: It cannot be read now.
    """

    def __init__(
        self, path: Path, parse: Callable[[bytes], T], missing: Callable[[], T] | None = None
    ) -> None:
        self._path = path
        self._parse = parse
        self._missing = missing
        self._stamp = self._look()
        self.value = self._read()

    @property
    def exists(self) -> bool:
        """Whether there was a file when it was looked at last."""
        return self._stamp is not None

    def refresh(self) -> bool:
        """Reads it again if it has changed; tells whether it now means something else.

        What cannot be read leaves the last good content in force: a slip of an editor must not
        lock everybody out. Blocking.
        """
        stamp = self._look()
        if stamp == self._stamp:
            return False
        # Before the content: a change in between is seen as one the next time.
        self._stamp = stamp
        try:
            self.value = self._read()
        except CredentialsUnusable as error:
            log.warning("credentials stay as they were", problem=error.detail)
            return False
        log.info("credentials were read again", file=self._path.name)
        return True

    def _look(self) -> _Stamp:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino

    def _read(self) -> T:
        try:
            with self._path.open("rb") as file:
                data = file.read(_BYTES_MAX)
            return self._parse(data)  # one that is larger is cut, and no JSON
        except (FileNotFoundError, NotADirectoryError) as error:
            if self._missing is not None:
                return self._missing()
            raise CredentialsUnusable(f"{self._path} is not there") from error
        except OSError as error:
            raise CredentialsUnusable(f"{self._path} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise CredentialsUnusable(f"{self._path} is not usable: {error}") from error
