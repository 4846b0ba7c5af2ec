"""Write-behind: logs whose last lines are durable in the journal but not yet in their files.

Nobody waits for these files. The journal is the truth until a checkpoint, reads find the lines in
memory, and recovery writes them. So a busy log is written once for many commits: when no commit is
waiting, when its oldest pending line has waited for a moment, or when it has enough lines for a
write of its own.
"""

from collections import OrderedDict
from collections.abc import Iterable

from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.storage.jsonl.log.log import Log
from bamboo_gateway.storage.jsonl.log.write_health import WriteHealth

# How long a file may lag while commits keep coming. Somebody who follows one with `tail -f` hardly
# notices, and a session that streams 50 events a second is written once.
_LAG_SECONDS = 1.0
# The most logs written between two batches: some 100 us, beside a sync that takes as much or more.
_LOGS_AT_ONCE = 8
# From this size on a write costs by its bytes, so waiting for more saves nothing. Readers of the
# last events also join the lines that are in memory.
_TAIL_BYTES = 256 * 1024


class WriteBehind:
    """Writes pending lines into log files; used on the committer's thread alone."""

    def __init__(self, write_health: WriteHealth, clock: Clock) -> None:
        self._write_health = write_health
        self._clock = clock
        # The logs with pending lines and the time since when; the oldest first.
        self._since: OrderedDict[Log, float] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._since)

    def add(self, logs: Iterable[Log]) -> None:
        """Take logs that got new lines; write those with many pending bytes at once."""
        since, now = self._since, self._clock.monotonic()
        for log in logs:
            if log.size - log.written >= _TAIL_BYTES:
                self._write(log)
            elif log not in since:
                since[log] = now

    def write_due(self) -> None:
        """Write some logs that have lagged for long; called between batches."""
        until = self._clock.monotonic() - _LAG_SECONDS
        for _ in range(_LOGS_AT_ONCE):
            log, since = next(iter(self._since.items()), (None, until))
            if log is None or since > until:
                return
            self._write(log)

    def write_oldest(self) -> None:
        """Write the logs that have lagged longest; called when there is nothing else to do."""
        for _ in range(min(_LOGS_AT_ONCE, len(self._since))):
            self._write(next(iter(self._since)))

    def _write(self, log: Log) -> None:
        self._since.pop(log, None)
        # Lines that cannot be written stay in memory; from then on the session's writes are
        # refused.
        if log.failure is None and not log.is_uncertain:
            self._write_health.write(log)
