"""Files that may change while the gateway runs. They are read again off the event loop."""

from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, TypeVar

import structlog

from bamboo_gateway.credentials.errors import CredentialsUnusable

log = structlog.get_logger(__name__)

T = TypeVar("T")

_BYTES_MAX: Final = 16 * 1024 * 1024
"""The largest file: far more than all keys take. A larger one is some other file."""

_Stamp = tuple[int, int, int, int] | None


class WatchedFile(Generic[T]):
    """A file, and the value parsed from its content.

    Args:
        path: The path of the file.
        parse: Returns the value of the content, or raises ValueError or CredentialsUnusable.
        missing: The value without a file; None if the file has to exist.

    Attributes:
        path: The path of the file.
        value: The value of the last valid content.

    Raises:
        CredentialsUnusable: The file cannot be read now.
    """

    def __init__(
        self, path: Path, parse: Callable[[bytes], T], missing: Callable[[], T] | None = None
    ) -> None:
        self.path = path
        self._parse = parse
        self._missing = missing
        self._stamp = self._look()
        self.value = self._read()

    @property
    def exists(self) -> bool:
        """Whether the file existed at the last check."""
        return self._stamp is not None

    def refresh(self) -> bool:
        """Read the file again if it has changed; return whether its value is another one now.

        If the file cannot be read, the last valid content stays in force: a mistake in an editor
        must not lock everybody out. Blocks.
        """
        stamp = self._look()
        if stamp == self._stamp:
            return False
        # Before the content, so that a change in between is noticed the next time.
        self._stamp = stamp
        try:
            self.value = self._read()
        except CredentialsUnusable as error:
            log.warning("credentials stay as they were", problem=error.detail)
            return False
        log.info("credentials were read again", file=self.path.name)
        return True

    def _look(self) -> _Stamp:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino

    def _read(self) -> T:
        try:
            with self.path.open("rb") as file:
                data = file.read(_BYTES_MAX)
            return self._parse(data)  # a larger file is cut, and then no JSON
        except (FileNotFoundError, NotADirectoryError) as error:
            if self._missing is not None:
                return self._missing()
            raise CredentialsUnusable(f"{self.path} is not there") from error
        except OSError as error:
            raise CredentialsUnusable(f"{self.path} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise CredentialsUnusable(f"{self.path} is not usable: {error}") from error
