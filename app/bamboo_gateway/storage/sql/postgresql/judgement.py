"""Who is dead, judged by the counters of heartbeats. Nobody compares clocks.

An executor is dead when its counter has not moved in `silent_rounds` of this process's own renewals
in a row. A renewal of its own that fails sets all that is counted back: after an outage of the
database nobody is dead. One of the same machine whose process has ended is dead at once.

The heartbeat's thread tells what it has seen; every thread may ask.
"""

from collections.abc import Collection, Mapping
from threading import Lock
from typing import Final, NamedTuple

# Ids of executors without a row that somebody asked for. Beyond this the oldest are asked anew.
_MISSING_MAX: Final = 10_000
# What was asked for during a look may be newer than that look: the second one behind it decides.
_LOOKS: Final = 2


class _Watch(NamedTuple):
    counter: int
    rounds: int
    is_gone: bool


class Judgement:
    """What this process thinks of the others."""

    def __init__(self, silent_rounds: int) -> None:
        self._silent_rounds = silent_rounds
        # Replaced as a whole, never changed: other threads read it.
        self._watches: dict[str, _Watch] = {}
        self._looks = 0
        # The look that settles that an executor is gone which has no row.
        self._missing: dict[str, int] = {}
        self._lock = Lock()

    def renewed(
        self, counters: Mapping[str, int], gone: Collection[str], *, is_round: bool = True
    ) -> None:
        """Note what a renewal has seen of the others.

        Args:
            counters: The counters of all others that have a row.
            gone: Those of them whose process has ended, on this machine.
            is_round: Whether a whole period has passed since the last renewal; else its silence
                does not count.
        """
        watches = {}
        for executor, counter in counters.items():
            last = self._watches.get(executor)
            rounds = 0
            if last is not None and last.counter == counter:
                rounds = min(last.rounds + is_round, self._silent_rounds)
            watches[executor] = _Watch(counter, rounds, executor in gone)
        # Ids are never used again: a row that is gone stays gone.
        self.note_gone([one for one in self._watches if one not in watches])
        self._watches = watches
        self._looks += 1

    def failed(self) -> None:
        """Note that a renewal failed: the others may have been as unlucky."""
        self._watches = {
            executor: watch._replace(rounds=0) for executor, watch in self._watches.items()
        }

    def note_gone(self, executors: Collection[str]) -> None:
        """Note executors that have no row, as a statement saw that knew of them from elsewhere."""
        for executor in executors:
            self._settle(executor, 0)

    def is_dead(self, executor: str) -> bool:
        """Return whether an executor is dead, or has no row any more."""
        return self.judged(executor) is not None

    def judged(self, executor: str) -> int | None:
        """Return the counter that a dead executor was judged by; None when it is not dead.

        It is -1 for one that has no row.
        """
        watch = self._watches.get(executor)
        if watch is not None:
            is_dead = watch.is_gone or watch.rounds >= self._silent_rounds
            return watch.counter if is_dead else None
        if (settled_by := self._missing.get(executor)) is None:
            settled_by = self._looks + _LOOKS
            self._settle(executor, settled_by)
        return -1 if self._looks >= settled_by else None

    @property
    def dead(self) -> list[str]:
        """The dead that have a row."""
        return [executor for executor in list(self._watches) if self.is_dead(executor)]

    @property
    def known(self) -> int:
        """How many others have a row."""
        return len(self._watches)

    def _settle(self, executor: str, look: int) -> None:
        with self._lock:
            self._missing[executor] = look
            while len(self._missing) > _MISSING_MAX:
                del self._missing[next(iter(self._missing))]
