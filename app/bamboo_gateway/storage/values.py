"""What all stores do alike with values: check their keys, and write those that wait at once."""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from threading import Lock
from typing import Final

from bamboo_gateway.domain.errors import BambooError, StorageFailed
from bamboo_gateway.domain.limits import MiB
from bamboo_gateway.storage.base import VALUE_KEY_CHARS_MAX
from bamboo_gateway.storage.reports import ValueChange

# What one transaction takes, so that the first call of many does not wait for the last one's bytes.
_BATCH_BYTES_MAX: Final = 8 * MiB

Run = Callable[[Callable[[], None]], Awaitable[None]]
"""Run a function on a thread, one at a time and in the order of the calls."""


def check_keys(changes: Sequence[ValueChange]) -> None:
    """Refuse keys that some store could not keep, or would order otherwise.

    Raises:
        ValueError: A key has characters that are no printable ASCII, or too many of them.
    """
    for kind, key, _ in changes:
        if not kind or not (kind + key).isascii() or not (kind + key).isprintable():
            raise ValueError("The kind and the key of a value are printable ASCII.")
        if len(kind) + len(key) > VALUE_KEY_CHARS_MAX:
            raise ValueError(
                f"The kind and the key of a value have at most {VALUE_KEY_CHARS_MAX} characters."
            )


def last_of_each(changes: Sequence[ValueChange]) -> list[ValueChange]:
    """Return the last change of each key: those before it are seen by nobody."""
    return list({(change.kind, change.key): change for change in changes}.values())


def end_of(prefix: str) -> str:
    """Return the key that follows all keys with a prefix, by code point."""
    # Keys are ASCII, so a higher character than their last one exists.
    return prefix[:-1] + chr(ord(prefix[-1]) + 1) if prefix else "\x7f"


class _Waiting:
    __slots__ = ("changes", "error")

    def __init__(self, changes: Sequence[ValueChange]) -> None:
        self.changes = changes
        self.error: BambooError | None = None


class ValueWriter:
    """Writes the changes of calls in their order; those that wait share one transaction."""

    def __init__(self, run: Run, write: Callable[[Sequence[ValueChange]], None]) -> None:
        """Make a writer.

        Args:
            run: See `Run`.
            write: Makes changes durable in one transaction, with one change for each key. It
                blocks.
        """
        self._run = run
        self._write = write
        self._waiting: deque[_Waiting] = deque()
        self._lock = Lock()

    async def write(self, changes: Sequence[ValueChange]) -> None:
        """Write changes, as `SessionStore.write_values`."""
        check_keys(changes)
        if not changes:
            return
        mine = _Waiting(list(changes))
        self._waiting.append(mine)
        try:
            await self._run(self._write_waiting)
        except BaseException:
            # Nobody waits for it any more: it is not written after what comes later.
            with self._lock:
                if mine in self._waiting:
                    self._waiting.remove(mine)
            raise
        if mine.error is not None:
            raise mine.error

    def _write_waiting(self) -> None:
        """Write what waits: at least the first, so the calls never have less turns than changes."""
        taken = self._take()
        if not taken:
            return
        error = self._try([change for waiting in taken for change in waiting.changes])
        if error is None:
            return
        if len(taken) == 1:
            taken[0].error = error
            return
        # One of them may be the reason, and the others do not depend on it.
        for waiting in taken:
            waiting.error = self._try(waiting.changes)

    def _take(self) -> list[_Waiting]:
        taken: list[_Waiting] = []
        size = 0
        with self._lock:
            while self._waiting and size < _BATCH_BYTES_MAX:
                taken.append(self._waiting.popleft())
                size += sum(len(change.value or b"") for change in taken[-1].changes)
        return taken

    def _try(self, changes: Sequence[ValueChange]) -> BambooError | None:
        try:
            self._write(last_of_each(changes))
        except BambooError as error:
            return error
        except Exception as error:  # noqa: BLE001 - each call gets an answer, whatever fails
            return StorageFailed(f"The values cannot be stored: {error!r}.")
        return None
